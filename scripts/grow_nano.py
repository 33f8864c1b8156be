"""Give a trained molmo-nano a larger vocabulary and keep everything that it has learned.

A token that both tokenizers know keeps its row; a new one starts as the mean of the rows that spelt it before. All
other weights stay, unless `--vit` names the result of a run that trained the picture encoder alone.

    python scripts/grow_nano.py runs/nano_places_more/final configs/molmo-nano-wide runs/nano_grown
    python scripts/grow_nano.py TRAINED CONFIG OUT --vit runs/nano_wide_vit/final
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from olmo.models.molmo.molmo import Molmo, MolmoConfig


def main() -> None:
    """Write a checkpoint of the larger model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="checkpoint of the smaller vocabulary")
    parser.add_argument("config", type=Path, help="configuration of the model with the larger vocabulary")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--vit", type=Path, help="checkpoint that holds a picture encoder, to take it from")
    args = parser.parse_args()
    small, large = Molmo.from_pretrained(args.trained), Molmo(MolmoConfig.load(args.config))
    weights = small.state_dict()
    name = "llm.wte.embedding"
    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (args.trained, args.config))
    weights[name] = grown_table(weights[name], old, new)
    large.load_state_dict(weights)
    if args.vit is not None:
        report = large.load_checkpoint(args.vit, strict=False)
        if report.unexpected or any(name.startswith("vision_backbone.image_vit.") for name in report.missing):
            raise SystemExit(f"{args.vit} does not hold the picture encoder of this model: {report}")
    large.save_checkpoint(args.out, sharded=False)
    print(f"{small.num_params():,} -> {large.num_params():,} parameters in {args.out}")


def grown_table(table: torch.Tensor, old: Tokenizer, new: Tokenizer) -> torch.Tensor:
    """Rows `[V, D]` for the new tokenizer from those of the old one."""
    known = old.get_vocab()
    rows = torch.empty(new.get_vocab_size(), table.shape[1])
    for token, index in new.get_vocab().items():
        spelling = [known[token]] if token in known else old.encode(new.decode([index])).ids
        rows[index] = table[spelling].mean(dim=0)
    return rows


if __name__ == "__main__":
    main()

"""Largest difference between the logits of an imported language model here and in transformers, on real text.

The text is this project's own: prose, a licence, a table, Python. Two rows a text: with the matrix kernels of training,
which are those of transformers, and with the quicker ones of inference, which round a little differently.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import harness
import torch
import transformers

from olmo.models.molmo.base_llm import llm_config_from_hf
from olmo.models.molmo.base_weights import load_llm_and_vit
from olmo.models.molmo.molmo import Molmo, MolmoConfig

TEXTS = ("README.md", "LICENSE", "docs/models.md", "olmo/config.py")
LENGTH, QUICK_LENGTH = 1024, 128
LIMIT = 1e-4


def load(folder: Path) -> tuple[Molmo, Any]:
    """The model in `folder` as a Molmo without eyes, and as transformers reads it; float32."""
    llm = llm_config_from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8"))).asdict()
    llm["tokenizer"] = {"identifier": str(folder.resolve())}
    model = Molmo(MolmoConfig.new(llm=llm, vision_backbone=None)).eval()
    load_llm_and_vit(model, folder)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model.requires_grad_(False), peer.requires_grad_(False)


def compare(model: Molmo, peer: Any, text: str, ids: list[int]) -> list[harness.Row]:
    """Rows of one text."""
    row = torch.tensor([ids])
    with torch.no_grad():
        expected, quick = peer(row).logits, model(row).logits
    training = model(row, use_cache=False).logits  # nothing requires a gradient, so nothing more is kept
    facts = {"n_tokens": len(ids), "largest_logit": float(expected.abs().max())}
    return [
        harness.Row(
            case=f"{text}, {kernels}",
            ours=float((ours - expected).abs().max()),
            limit=LIMIT,
            is_higher_better=False,
            extra={**facts, "share_of_equal_choices": float((ours.argmax(-1) == expected.argmax(-1)).float().mean())},
        )
        for kernels, ours in (("training", training), ("inference", quick))
    ]


def main() -> None:
    """Compare and report; fails where the tokenizers differ."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/parts/smollm2"), help="language model")

    options = harness.parse_options("Logits of an imported language model against transformers", add)
    machine = harness.hardware()
    model, peer = load(options.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.folder)
    rows = []
    for name in TEXTS:
        text = (harness.ROOT / name).read_text(encoding="utf-8")
        ids = model.tokenizer.encode(text)
        if ids != tokenizer(text, add_special_tokens=False).input_ids:
            raise SystemExit(f"the tokenizers cut {name} differently")
        rows += compare(model, peer, name, ids[: QUICK_LENGTH if options.quick else LENGTH])
    harness.report("base_logits", "largest difference of a logit", rows, options=options, machine=machine,
                   packages=("transformers",), notes={"folder": options.folder.name})  # fmt: skip


if __name__ == "__main__":
    main()

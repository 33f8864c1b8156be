"""Give a trained molmo-nano more blocks, and read it as a VideoOlmo, without changing what it computes.

What the new blocks add to the residual stream is zero at first.

    python scripts/deepen_nano.py olmo/models/nano configs/molmo-nano-video runs/nano_deep --after 2 --layers 6
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from olmo.models.auto import from_pretrained
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig

BLOCK = "llm.blocks."
OUTPUTS = ("attention.attn_out.weight", "mlp.ff_out.weight")


def main() -> None:
    """Write a checkpoint of the deeper model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="checkpoint of the Molmo or VideoOlmo")
    parser.add_argument("config", type=Path, help="configuration of the deeper VideoOlmo")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--after", type=int, required=True, help="blocks before the new ones")
    parser.add_argument("--layers", type=int, help="blocks of the deeper model; those of its configuration by default")
    args = parser.parse_args()
    small, large = from_pretrained(args.trained), VideoOlmo(deeper_config(args.config, args.layers))
    n_new = large.config.llm.n_layers - small.config.llm.n_layers
    if n_new < 0 or not 0 <= args.after <= small.config.llm.n_layers:
        raise SystemExit(
            f"{args.trained} has {small.config.llm.n_layers} blocks; nothing can be put in after {args.after}"
        )
    weights = {moved(name, args.after, n_new): value for name, value in small.state_dict().items()}
    report = large.load_state_dict(weights, strict=False)
    if report.unexpected_keys:
        raise SystemExit(f"{args.trained} does not fit {args.config}: {report.unexpected_keys[:3]}")
    with torch.no_grad():
        for block in large.llm.blocks[args.after : args.after + n_new]:
            for name in OUTPUTS:
                block.get_parameter(name).zero_()
    large.save_checkpoint(args.out, sharded=False)
    print(f"{small.num_params():,} -> {large.num_params():,} parameters in {args.out}")


def deeper_config(path: Path, n_layers: int | None) -> VideoOlmoConfig:
    """The configuration in a file, with another number of blocks where one is given."""
    return VideoOlmoConfig.load(path, overrides=[] if n_layers is None else [f"llm.n_layers={n_layers}"])


def moved(name: str, after: int, n_new: int) -> str:
    """The name of a weight once `n_new` blocks stand after the first `after`."""
    if not name.startswith(BLOCK):
        return name
    number, rest = name.removeprefix(BLOCK).split(".", 1)
    return f"{BLOCK}{int(number) + n_new * (int(number) >= after)}.{rest}"


if __name__ == "__main__":
    main()

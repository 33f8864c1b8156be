"""Put the scorer of one HeMolmo half into another: all weights of the first, the scorer's between both.

    python scripts/mix_scorers.py runs/he_nano_few/final runs/he_nano_scorer/final 0.72 runs/he_nano_mixed

For a mean both have to share everything but the scorer, so the second was trained from the first with the scorer alone.
It was better than either: docs/log.md has the figures. With a share of 1 the scorer moves over whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from olmo.models.he_molmo.he_molmo import HeMolmo

SCORER = "token_selector."


def main(first: Path, second: Path, share: float, target: Path) -> None:
    """Write the model whose scorer is `share` of the second's and the rest of the first's."""
    if not 0 <= share <= 1:
        raise SystemExit(f"the share of the second scorer is 0 to 1, got {share:g}")
    model, other = HeMolmo.from_pretrained(first), HeMolmo.from_pretrained(second).state_dict()
    state = model.state_dict()
    apart = [name for name in state if not name.startswith(SCORER) and not torch.equal(state[name], other[name])]
    if apart and share < 1:
        raise SystemExit(f"the models differ outside the scorer, in {len(apart)} tensors, {apart[0]} among them")
    for name in state:
        if name.startswith(SCORER):
            state[name].lerp_(other[name], share)
    model.save_checkpoint(target, sharded=False)
    print(target)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))

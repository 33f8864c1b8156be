"""Run the debug recipes one after the other, and fail where a loss did not fall. `make train-debug` calls it.

python scripts/train_debug.py [pretrain multitask instruct finetune]
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from olmo.train.run import build_trainer

ROOT = Path(__file__).resolve().parents[1]
MODES = ("pretrain", "multitask", "instruct", "finetune")
FALLEN = 0.8
"""The last fifth of a run must have at most this share of the first fifth's loss."""


def train(mode: str) -> tuple[Path, float, float]:
    """Run one recipe from its start; returns the metrics' file and the loss at the beginning and at the end."""
    recipe = ROOT / "configs" / "debug" / f"{mode}.yaml"
    run_dir = ROOT / "runs" / "debug" / mode
    shutil.rmtree(run_dir, ignore_errors=True)  # a debug run always begins anew
    build_trainer(recipe, [f"run_dir={run_dir}", f"n_threads={torch.get_num_threads()}"]).fit()
    metrics = run_dir / "metrics.jsonl"
    losses = [
        line["loss"] for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()) if "loss" in line
    ]
    n = max(1, len(losses) // 5)
    return metrics, sum(losses[:n]) / n, sum(losses[-n:]) / n


def main() -> int:
    """Run what is asked for; the exit code is 1 where a loss did not fall."""
    unknown = set(sys.argv[1:]) - set(MODES)
    if unknown:
        print(f"error: {', '.join(sorted(unknown))}: choose from {', '.join(MODES)}", file=sys.stderr)
        return 2
    code = 0
    results = {mode: train(mode) for mode in sys.argv[1:] or MODES}
    print()
    for mode, (metrics, first, last) in results.items():
        has_fallen = last <= FALLEN * first
        code |= not has_fallen
        verdict = "" if has_fallen else f"  it should have come down to {FALLEN:.0%}"
        print(f"{mode:10} loss {first:.2f} -> {last:.2f}   metrics: {metrics.relative_to(ROOT)}{verdict}")
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The loss curve of a run from pretrained parts, and what its model answers about unseen scenes.

    molmo train configs/smol.yaml
    python benchmarks/smol_run.py runs/smol --save

Reads the metrics that the run left behind; see docs/smol.md for how the parts are fetched. The last line is one JSON
object; `--save` writes it to benchmarks/results/smol.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, commit, hardware, versions

from olmo.data.scenes.dataset import ScenesDataset
from olmo.eval.scenes_eval import evaluate_scenes
from olmo.io import write_atomic
from olmo.models.auto import from_pretrained
from olmo.train.train_config import TrainConfig


def main() -> None:
    """Gather, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--scenes", type=int, default=25, help="unseen scenes to ask about; 0 asks nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/smol.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = TrainConfig.load(args.run_dir / "config.yaml")
    losses, held_out = curve(args.run_dir / "metrics.jsonl")
    result = {
        "benchmark": "smol",
        "ratio": None,
        "held_out": held_out,
        "curve": losses,
        "recipe": {
            "max_steps": recipe.max_steps,
            "batch_size": recipe.batch_size,
            "precision": recipe.precision.value,
            "connector_alone_until": recipe.optimizer.llm.first_step,
        },
        "answers": answers(args.run_dir / "final", recipe, args.scenes) if args.scenes else None,
        "hardware": hardware(),
        "versions": versions("numpy", "tokenizers"),
        "commit": commit(),
        "command": f"molmo train configs/smol.yaml; python benchmarks/smol_run.py {args.run_dir.name}",
    }
    if args.save:
        write_atomic(RESULTS / "smol.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def curve(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Steps with the mean loss since the line before, and steps with the loss on held-out scenes."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held_out = [(line["step"], line["evaluation"]["loss"]) for line in lines if "evaluation" in line]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line], held_out


def answers(model: Path, recipe: TrainConfig, n_scenes: int) -> dict[str, Any]:
    """Right answers by task about scenes that no split holds, with the picture and with grey."""
    scenes = recipe.data.resolved_groups()[0].sources[0].scenes
    items = ScenesDataset(scenes).evaluation_items(n_scenes)
    loaded = from_pretrained(model)
    reports = {
        name: evaluate_scenes(loaded, items, scenes, batch_size=8, blind=name == "grey") for name in ("picture", "grey")
    }
    return {name: {t: r.asdict() for t, r in report.tasks.items()} for name, report in reports.items()}


if __name__ == "__main__":
    main()

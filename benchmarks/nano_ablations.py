"""What helps molmo-nano: the same short run with one thing changed at a time, each measured on the same unseen scenes.

    python benchmarks/nano_ablations.py --start runs/nano_seeing --save

Rows that are done are kept in `runs/ablations` and not run again. A row takes minutes on one core. The last line is one
JSON object; `--save` writes it to benchmarks/results/nano_ablations.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, ROOT, commit, hardware, versions
from nano_profiles import PROFILES

from olmo.data.scenes.dataset import ScenesDataset
from olmo.eval.scenes_eval import evaluate_scenes
from olmo.io import write_atomic
from olmo.models.auto import from_pretrained
from olmo.train.run import build_trainer

RECIPE = ROOT / "configs" / "nano_wide.yaml"
RUNS = ROOT / "runs" / "ablations"
POOLED = (
    "vision_backbone.image_pooling_2d=mean",
    "vision_backbone.image_pooling_h=2",
    "vision_backbone.image_pooling_w=2",
)
CROPS = (
    "mm_preprocessor.crop_mode=overlap-and-resize-c2",
    "mm_preprocessor.max_crops=4",
    "mm_preprocessor.overlap_margins=[2,2]",
)
WITHOUT_CROPS = "2 x 2 mean pooling, without naming, 280 px"


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: what is different.
        overrides: changes of the recipe.
        model: changes of the model.
        side: of the scenes, px.
        beside: the row to compare it with, where that is not the first.
    """

    name: str
    overrides: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    side: int = 168
    beside: str | None = None


VARIANTS = (
    Variant("as the recipe"),
    Variant("without naming picture tokens", ("task=language",)),
    Variant("dropout 0.1 on responses", model=("llm.response_residual_dropout=0.1",)),
    Variant("2 x 2 mean pooling (36 tokens, not 144)", model=POOLED),
    Variant(WITHOUT_CROPS, ("task=language",), POOLED, side=280),
    Variant("the same with up to 4 crops", ("task=language",), (*POOLED, *CROPS), side=280, beside=WITHOUT_CROPS),
    Variant("length conditioning", model=("data_formatter.system_prompt=style_and_length",)),
)


def main() -> None:
    """Run what is missing, print the table and the JSON."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    chosen = [v for v in VARIANTS if not args.only or v.name in args.only]
    rows = []
    for variant in chosen:
        rows.append(measured(variant, args))
        print(f"{variant.name:45}", " ".join(f"{k} {100 * v:.1f}" for k, v in rows[-1]["figures"].items()), flush=True)
    result = {
        "benchmark": "nano_ablations",
        "ratio": None,
        "steps": args.steps,
        "n_scenes": args.scenes,
        "start": args.start.name,
        "rows": rows,
        "hardware": hardware(),
        "versions": versions("numpy", "pillow"),
        "commit": commit(),
        "command": f"python benchmarks/nano_ablations.py --start runs/{args.start.name} --steps {args.steps}",
    }
    if args.save:
        write_atomic(RESULTS / "nano_ablations.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="checkpoint that every row starts from")
    parser.add_argument("--steps", type=int, default=600, help="steps of 8 pictures")
    parser.add_argument("--scenes", type=int, default=300, help="unseen scenes that each row is measured on")
    parser.add_argument("--only", nargs="*", default=(), help="names of rows; by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/nano_ablations.json")
    return parser.parse_args()


def measured(variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    """The row of a variant, from the file of an earlier call where there is one."""
    folder = RUNS / "".join(c if c.isalnum() else "_" for c in variant.name)
    done = folder / "row.json"
    wanted = {"steps": args.steps, "n_scenes": args.scenes, "overrides": list(overrides(variant, args, folder))}
    if done.is_file():
        row: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if {k: row[k] for k in wanted} == wanted:
            return row
        shutil.rmtree(folder)
    trainer = build_trainer(RECIPE, wanted["overrides"])
    trainer.fit()
    row = {
        "name": variant.name,
        "beside": variant.beside or VARIANTS[0].name,
        **wanted,
        "figures": figures(folder, variant, args),
    }
    write_atomic(done, json.dumps(row, indent=1) + "\n")
    return row


def overrides(variant: Variant, args: argparse.Namespace, folder: Path) -> Sequence[str]:
    """Changes of the recipe for a row."""
    warm_up = max(1, args.steps // 10)
    common = [f"max_steps={args.steps}", f"run_dir={folder.relative_to(ROOT)}", f"init_from={args.start}"]
    common += [f"optimizer.{part}.warmup_steps={warm_up}" for part in ("connector", "vit", "llm")]
    common += [f"n_threads={args.threads}", "checkpoint.every_steps=100000"]
    common += [f"data.sources.0.scenes.image_size={variant.side}"]
    return [*common, *variant.overrides, f"model_overrides={json.dumps(variant.model)}"]


def figures(folder: Path, variant: Variant, args: argparse.Namespace) -> dict[str, float]:
    """Shares of right answers by task, and F1 of points, 0 to 1."""
    scenes = PROFILES["wide"].scenes.replace(image_size=variant.side)
    model = from_pretrained(folder / "final")
    report = evaluate_scenes(model, ScenesDataset(scenes).evaluation_items(args.scenes), scenes)
    found = {name: result.accuracy for name, result in report.tasks.items() if not name.endswith(("_near", "_absent"))}
    found |= {f"{name}_f1": points.f1 for name, points in report.points.items()}
    return {name: round(share, 4) for name, share in found.items() if share is not None}


if __name__ == "__main__":
    main()

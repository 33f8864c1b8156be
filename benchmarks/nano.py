"""How well a model answers questions about scenes it has never seen, beside the same model without the picture.

    python benchmarks/nano.py            500 scenes, one question of each task a scene allows
    python benchmarks/nano.py --quick    60 scenes
    python benchmarks/nano.py --save     also write benchmarks/results/nano.json

The last line is one JSON object. The exit code is 1 when a floor is missed and 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, ROOT, commit, hardware, versions
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from safetensors import SafetensorError
from safetensors.torch import load_file

from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.eval.report import ScenesReport, TaskResult
from olmo.eval.scenes_eval import Item, evaluate_scenes
from olmo.exceptions import OLMoCheckpointError, OLMoError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.base import ModelBase
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.models.molmo.molmo import Molmo, MolmoConfig

RESULT = RESULTS / "nano.json"
FLOORS = {"naming": 0.80, "counting": 0.65, "pointing": 0.45}
"""Least accuracy of a model that was trained on a CPU alone."""
QUICK_SCENES, FULL_SCENES = 60, 500
SHOWN_CONFUSIONS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse(given)
    console = Console()
    try:
        set_up(args)
        model, facts = load_model(args)
        config = ScenesConfig()
        items = evaluation_items(args, config)
        start = time.perf_counter()
        sighted = run(model, items, config, args.batch_size, False, console)
        blind = run(model, items, config, args.batch_size, True, console) if args.blind else None
    except OLMoError as error:
        # Some messages list names line by line.
        Console(stderr=True).print(f"error: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        return 2
    floors = FLOORS if args.floors else {}
    print_report(console, sighted, blind, floors)
    result = {
        "benchmark": "nano",
        **facts,
        "n_params": model.num_params(),
        "n_scenes": sighted.n_scenes,
        "ratio": lowest_ratio(sighted),
        **figures(sighted, blind, floors),
        "seconds": round(time.perf_counter() - start, 1),
        **provenance(model, given),
    }
    if args.save:
        write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0 if all(passes(sighted, name, floor) for name, floor in floors.items()) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="checkpoint folder or hub id; the bundled model by default")
    source.add_argument("--run-dir", type=Path, help="folder of a training run; its latest weights are evaluated")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "molmo-nano", help="of the run's model")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scenes", type=int, help=f"number of scenes; {FULL_SCENES} by default")
    size.add_argument("--quick", action="store_true", help=f"{QUICK_SCENES} scenes")
    parser.add_argument("--blind", action=argparse.BooleanOptionalAction, default=True, help="also ask about grey")
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True, help="fail below the floors")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/nano.json")
    parser.add_argument("--batch-size", type=int, default=32, help="questions decoded together")
    parser.add_argument("--threads", type=int, default=0, help="threads of CPU arithmetic; 0: PyTorch's choice")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args(arguments)


def set_up(args: argparse.Namespace) -> None:
    """Check the machine options and set the number of threads."""
    if args.threads < 0:
        raise OLMoInputError(f"--threads {args.threads} is out of range; allowed: 0 and up")
    if args.device not in ("cpu", "cuda"):
        raise OLMoInputError(f"--device {args.device!r} is not known; use cpu or cuda")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OLMoInputError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)


def evaluation_items(args: argparse.Namespace, config: ScenesConfig) -> list[Item]:
    """The questions, always the same for a number of scenes."""
    n_scenes = args.scenes if args.scenes is not None else QUICK_SCENES if args.quick else FULL_SCENES
    if n_scenes < 1:
        raise OLMoInputError(f"--scenes {n_scenes} is out of range; allowed: 1 and up")
    return ScenesDataset(config).evaluation_items(n_scenes)


def load_model(args: argparse.Namespace) -> tuple[ModelBase, dict[str, Any]]:
    """The model to evaluate, and what the result says about where it came from."""
    if args.run_dir is not None:
        model, step = model_of_run(args.run_dir, args.config)
        return model.to(args.device), {"model": args.run_dir.name, "step": step}
    if args.model is None:
        return Molmo.from_pretrained(bundled_model_folder(), device=args.device), {"model": BUNDLED_MODEL}
    return Molmo.from_pretrained(args.model, device=args.device), {"model": Path(args.model).name}


def model_of_run(run_dir: Path, config: Path) -> tuple[Molmo, int]:
    """The model of a training run at its last checkpoint, and the step of that."""
    folder = run_dir / "latest"
    model = Molmo(MolmoConfig.load(config))
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        step = int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise OLMoCheckpointError(
            f"cannot read the run's latest weights in {folder}: {reason}; give the run_dir of a language run and the "
            "--config it was trained with, or wait for its first checkpoint"
        ) from None
    return model.eval(), step


def run(
    model: ModelBase, items: Sequence[Item], config: ScenesConfig, batch_size: int, blind: bool, console: Console
) -> ScenesReport:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("blind" if blind else "sighted", total=len(items))
        return evaluate_scenes(
            model, items, config, batch_size, blind, lambda done, _: progress.update(bar, completed=done)
        )


def passes(report: ScenesReport, task: str, floor: float) -> bool:
    """Whether the accuracy reaches the floor; a task that was never asked does not."""
    accuracy = report.tasks[task].accuracy if task in report.tasks else None
    return accuracy is not None and accuracy >= floor


def lowest_ratio(sighted: ScenesReport) -> float:
    """Accuracy over floor of the task that is furthest below its floor; 1 and above: all floors are met."""
    accuracies = {name: sighted.tasks[name].accuracy for name in FLOORS if name in sighted.tasks}
    return round(min((a / FLOORS[name] for name, a in accuracies.items() if a is not None), default=0.0), 4)


def figures(sighted: ScenesReport, blind: ScenesReport | None, floors: dict[str, float]) -> dict[str, Any]:
    """Results by task with the blind figure and the floor beside each, and the breakdowns."""
    found = sighted.asdict()
    for name, entry in found["tasks"].items():
        if blind is not None:
            entry["blind"] = blind.asdict()["tasks"][name]["accuracy"]
        if name in floors:
            entry["floor"] = floors[name]
            entry["passed"] = passes(sighted, name, floors[name])
    return {k: found[k] for k in ("tasks", "counting_by_count", "pointing_by_objects", "confusions")}


def print_report(console: Console, sighted: ScenesReport, blind: ScenesReport | None, floors: dict[str, float]) -> None:
    numbers = ("n", "right %", "95 % interval", "blind %", "floor %")
    table = Table("task", *(Column(title, justify="right") for title in numbers), "")
    for name, result in sighted.tasks.items():
        floor = floors.get(name)
        verdict = "" if floor is None else "pass" if passes(sighted, name, floor) else "FAIL"
        table.add_row(
            name,
            str(result.n),
            percent(result.accuracy),
            interval(result),
            percent(blind.tasks[name].accuracy if blind else None),
            percent(floor),
            verdict,
            style="red" if verdict == "FAIL" else None,
        )
    console.print(table)
    for title, results in (
        ("counting by true count", sighted.counting_by_count),
        ("pointing by number of objects", sighted.pointing_by_objects),
    ):
        console.print(f"{title}: " + ", ".join(f"{k}: {percent(r.accuracy)} of {r.n}" for k, r in results.items()))
    wrong = [f"{c.expected} -> {c.answered or '(nothing)'} {c.n}" for c in sighted.confusions[:SHOWN_CONFUSIONS]]
    console.print("wrong names: " + (", ".join(wrong) or "none"), markup=False)
    console.print("pointing_near: points up to 1.5 % of the side off the object count as well.")


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def interval(result: TaskResult) -> str:
    low, high = result.interval
    return f"{percent(low)} to {percent(high)}"


def provenance(model: ModelBase, arguments: Sequence[str]) -> dict[str, Any]:
    """Hardware, versions, commit and command of this run."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
    # Names alone: where a folder lies on one machine says nothing on another.
    shown = [Path(a).name if "/" in a else a for a in arguments]
    return {
        "hardware": {"device": device, **hardware()},
        "versions": versions("numpy", "pillow"),
        "commit": commit(),
        "command": " ".join(["python", "benchmarks/nano.py", *shown]),
    }


if __name__ == "__main__":
    sys.exit(main())

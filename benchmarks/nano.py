"""How well a model answers questions about scenes it has never seen, beside the same model without the picture.

    python benchmarks/nano.py                   1000 scenes, one question of each task a scene allows
    python benchmarks/nano.py --profile basic   500 easier scenes; see nano_profiles.py
    python benchmarks/nano.py --art SHEET.png   also scenes in other art, from a sprite sheet
    python benchmarks/nano.py --quick           60 scenes
    python benchmarks/nano.py --save            also write benchmarks/results/nano.json

The last line is one JSON object. The exit code is 1 when a floor is missed and 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, commit, hardware, versions
from nano_profiles import DEFAULT_PROFILE, PROFILES, Profile, with_art
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from olmo.data.scenes.dataset import ScenesDataset
from olmo.eval.report import ScenesReport, TaskResult
from olmo.eval.scenes_eval import Answered, Item, answer_items, summarise
from olmo.exceptions import OLMoCheckpointError, OLMoError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.auto import from_pretrained
from olmo.models.base import ModelBase
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder

RESULT = RESULTS / "nano.json"
QUICK_SCENES = 60
SHOWN_CONFUSIONS = 10
CHUNK = 512
"""Questions handed out at a time: several full batches of each task, and few enough to share out evenly."""


@dataclass(frozen=True)
class Part:
    """One set of scenes and what a model made of it.

    Attributes:
        title: for people.
        profile: the scenes and the floors that hold on them.
        sighted: the model with the picture.
        blind: the model with grey instead; None where that was not asked.
    """

    title: str
    profile: Profile
    sighted: ScenesReport
    blind: ScenesReport | None

    def passes(self, name: str) -> bool:
        """Whether a figure reaches its floor; one of a task that was never asked does not."""
        figure = self.sighted.figure(name)
        return figure is not None and figure >= self.profile.floors[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse(given)
    console = Console()
    try:
        set_up(args)
        model, facts = load_model(args)
        profiles = chosen_profiles(args)
        # Other art first: a sheet that is missing or does not fit shows at once.
        items = {title: evaluation_items(args, profile) for title, profile in reversed(profiles.items())}
        start = time.perf_counter()
        parts = [run(model, items[title], title, profile, args, console) for title, profile in profiles.items()]
    except OLMoError as error:
        # Some messages list names line by line.
        Console(stderr=True).print(f"error: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        return 2
    for part in parts:
        print_report(console, part, args.floors)
    result = {
        "benchmark": "nano",
        **facts,
        "n_params": model.num_params(),
        "profile": args.profile,
        "ratio": lowest_ratio(parts),
        **figures(parts[0], args.floors),
        "seconds": round(time.perf_counter() - start, 1),
        **provenance(model, given),
    }
    if args.art is not None:
        result["art"] = {"sheet": args.art.name, **figures(parts[1], args.floors)}
    if args.save:
        write_atomic(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    is_enough = all(part.passes(name) for part in parts for name in part.profile.floors)
    return 0 if is_enough or not args.floors else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="checkpoint folder or hub id; the bundled model by default")
    source.add_argument("--run-dir", type=Path, help="folder of a training run; its latest weights are evaluated")
    parser.add_argument("--profile", choices=PROFILES, default=DEFAULT_PROFILE, help="which scenes and floors")
    parser.add_argument(
        "--art",
        type=Path,
        help="sprite sheet of other art to ask about as well",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scenes", type=int, help="number of scenes; by default that of the profile")
    size.add_argument("--quick", action="store_true", help=f"{QUICK_SCENES} scenes")
    parser.add_argument("--blind", action=argparse.BooleanOptionalAction, default=True, help="also ask about grey")
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True, help="fail below the floors")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/nano.json")
    parser.add_argument("--batch-size", type=int, default=32, help="questions decoded together")
    parser.add_argument("--threads", type=int, default=0, help="threads of CPU arithmetic; 0: PyTorch's choice")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the questions, on a CPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return parser.parse_args(arguments)


def set_up(args: argparse.Namespace) -> None:
    """Check the machine options and set the number of threads."""
    if args.processes < 1 or (args.processes > 1 and args.device != "cpu"):
        raise OLMoInputError(f"--processes {args.processes} is out of range; 1 and up on a CPU, 1 on a GPU")
    if args.threads < 0:
        raise OLMoInputError(f"--threads {args.threads} is out of range; allowed: 0 and up")
    if args.device not in ("cpu", "cuda"):
        raise OLMoInputError(f"--device {args.device!r} is not known; use cpu or cuda")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OLMoInputError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)


def chosen_profiles(args: argparse.Namespace) -> dict[str, Profile]:
    """What is asked about, by title: the profile, and its scenes in other art."""
    profile = PROFILES[args.profile]
    chosen = {f"profile {args.profile}": profile}
    if args.art is not None:
        chosen[f"profile {args.profile} in the art of {args.art.name}"] = with_art(profile, args.art)
    return chosen


def evaluation_items(args: argparse.Namespace, profile: Profile) -> list[Item]:
    """The questions, always the same for a number of scenes."""
    n_scenes = args.scenes if args.scenes is not None else QUICK_SCENES if args.quick else profile.n_scenes
    if n_scenes < 1:
        raise OLMoInputError(f"--scenes {n_scenes} is out of range; allowed: 1 and up")
    return ScenesDataset(profile.scenes).evaluation_items(n_scenes)


def load_model(args: argparse.Namespace) -> tuple[ModelBase, dict[str, Any]]:
    """The model to evaluate, and what the result says about where it came from."""
    if args.run_dir is not None:
        model, step = model_of_run(args.run_dir)
        return model.to(args.device), {"model": args.run_dir.name, "step": step}
    if args.model is None:
        return from_pretrained(bundled_model_folder(), device=args.device), {"model": BUNDLED_MODEL}
    return from_pretrained(args.model, device=args.device), {"model": Path(args.model).name}


def model_of_run(run_dir: Path) -> tuple[ModelBase, int]:
    """The model of a training run at its last checkpoint, and the step of that."""
    complete = sorted(marker.parent for marker in run_dir.glob("step*/COMPLETE"))
    if not complete:
        raise OLMoCheckpointError(
            f"{run_dir} holds no complete checkpoint (step*/COMPLETE); give the run_dir of a language run, or wait for "
            "its first checkpoint"
        )
    return from_pretrained(complete[-1]), int(complete[-1].name.removeprefix("step"))


def run(
    model: ModelBase, items: Sequence[Item], title: str, profile: Profile, args: argparse.Namespace, console: Console
) -> Part:
    """Ask with the picture and, unless told not to, without."""
    reports: list[ScenesReport | None] = [None, None]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for is_blind in (False, True) if args.blind else (False,):
            bar = progress.add_task(f"{title}, {'blind' if is_blind else 'sighted'}", total=len(items))

            def show(done: int, _: int, bar: Any = bar) -> None:
                progress.update(bar, completed=done)

            chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
            asked = Asked(model, profile, args.batch_size, is_blind, args.threads)
            answered: list[Answered] = []
            for part in answers(asked, chunks, args.processes):
                answered += part
                show(len(answered), len(items))
            reports[is_blind] = summarise(answered, is_blind)
    sighted, blind = reports
    assert sighted is not None
    return Part(title, profile, sighted, blind)


@dataclass(frozen=True)
class Asked:
    """Asks a model some questions; travels to another process whole, so that several share the work.

    Attributes:
        model: answers.
        profile: the scenes.
        batch_size: questions decoded together.
        is_blind: show grey.
        threads: of CPU arithmetic; 0: PyTorch's choice.
    """

    model: ModelBase
    profile: Profile
    batch_size: int
    is_blind: bool
    threads: int

    def __call__(self, items: Sequence[Item]) -> list[Answered]:
        """The answers to these questions."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return answer_items(self.model, items, self.profile.scenes, self.batch_size, self.is_blind)


def answers(asked: Asked, chunks: Sequence[Sequence[Item]], n_processes: int) -> Iterable[list[Answered]]:
    """The answers to each chunk of questions, in order."""
    if n_processes == 1:
        yield from map(asked, chunks)
        return
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(asked, chunks)


def lowest_ratio(parts: Iterable[Part]) -> float:
    """The figure that is furthest below its floor, over that floor; 1 and above: all floors are met."""
    found = [(p.sighted.figure(name), floor) for p in parts for name, floor in p.profile.floors.items()]
    return round(min((figure / floor for figure, floor in found if figure is not None), default=0.0), 4)


def figures(part: Part, has_floors: bool) -> dict[str, Any]:
    """Results by task with the blind figure and the floor beside each, and the breakdowns."""
    found = part.sighted.asdict()
    for group, suffix in (("tasks", ""), ("points", "_f1")):
        for task, entry in found[group].items():
            name = task + suffix
            if part.blind is not None:
                entry["blind"] = rounded(part.blind.figure(name))
            if has_floors and name in part.profile.floors:
                entry["floor"] = part.profile.floors[name]
                entry["passed"] = part.passes(name)
    keys = ("n_scenes", "tasks", "points", "counting_by_count", "pointing_by_objects", "confusions")
    return {key: found[key] for key in keys}


def rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def print_report(console: Console, part: Part, has_floors: bool) -> None:
    report, floors = part.sighted, part.profile.floors if has_floors else {}
    console.print(f"{part.title}: {report.n_scenes} scenes", markup=False)
    table = new_table("task", "n", "right %", "95 % interval", "blind %", "floor %", "")
    for name, result in report.tasks.items():
        add_row(table, part, floors, name, name, str(result.n), percent(result.accuracy), interval(result))
    console.print(table)
    table = new_table("points", "n", "precision %", "recall %", "F1 %", "blind %", "floor %", "")
    for name, points in report.points.items():
        shares = [percent(share) for share in (points.precision, points.recall, points.f1)]
        add_row(table, part, floors, f"{name}_f1", name, str(points.n), *shares)
    if report.points:
        console.print(table)
    for title, results in (
        ("counting by true count", report.counting_by_count),
        ("pointing by number of objects", report.pointing_by_objects),
    ):
        console.print(f"{title}: " + ", ".join(f"{k}: {percent(r.accuracy)} of {r.n}" for k, r in results.items()))
    wrong = [f"{c.expected} -> {c.answered or '(nothing)'} {c.n}" for c in report.confusions[:SHOWN_CONFUSIONS]]
    console.print("wrong names: " + (", ".join(wrong) or "none"), markup=False)
    console.print("near: points up to 1.5 % of the side off the object count as well.")


def new_table(name: str, *titles: str) -> Table:
    columns = (Column(title, justify="right", no_wrap=True) for title in titles)
    return Table(Column(name, no_wrap=True), *columns, box=SIMPLE_HEAD, pad_edge=False)


def add_row(table: Table, part: Part, floors: Mapping[str, float], figure: str, *cells: str) -> None:
    """Add a row with the blind figure, the floor and the verdict behind its cells."""
    verdict = "" if figure not in floors else "pass" if part.passes(figure) else "FAIL"
    blind = percent(part.blind.figure(figure) if part.blind else None)
    style = "red" if verdict == "FAIL" else None
    table.add_row(*cells, blind, percent(floors.get(figure)), verdict, style=style)


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

"""How well a model answers questions about clips it has never seen: as they are, in grey, and with frames shuffled.

    python benchmarks/nano_video.py                500 clips, one question of each task a clip allows
    python benchmarks/nano_video.py --quick        40 clips
    python benchmarks/nano_video.py --save         also write benchmarks/results/nano_video.json

Questions about order must fall to chance where frames are shuffled; what is left then was read from the things alone.
The last line is one JSON object. The exit code is 1 when a floor is missed and 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from harness import RESULTS, commit, hardware, versions
from nano_profiles import VIDEO_FLOORS, VIDEO_SCENES
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from olmo.eval.moving_eval import MovingItem, MovingReport, View, evaluate_moving, moving_items
from olmo.eval.report import TaskResult
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.bundled import BUNDLED_VIDEO_MODEL, bundled_model_folder
from olmo.models.video_olmo.video_olmo import VideoOlmo

N_CLIPS, QUICK_CLIPS, CLIPS_AT_ONCE = 500, 40, 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse(given)
    console = Console()
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    try:
        n_clips = args.clips if args.clips is not None else QUICK_CLIPS if args.quick else N_CLIPS
        if n_clips < 1:
            raise OLMoInputError(f"--clips {n_clips} is out of range; allowed: 1 and up")
        if args.processes < 1:
            raise OLMoInputError(f"--processes {args.processes} is out of range; allowed: 1 and up")
        folder = args.model or bundled_model_folder(BUNDLED_VIDEO_MODEL)
        n_params = VideoOlmo.from_pretrained(folder, overrides=args.override).num_params()
        asked = Asked(str(folder), args.override, args.batch_size, args.threads)
        found_by_view = views(asked, n_clips, args, console)
    except OLMoError as error:
        Console(stderr=True).print(f"error: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        return 2
    print_report(console, found_by_view)
    clip = found_by_view[View.clip]
    # A few clips may hold no question of some task; its floor is then missed.
    found = {name: (clip.tasks[name].accuracy or 0.0) if name in clip.tasks else 0.0 for name in VIDEO_FLOORS}
    missed = [name for name, floor in VIDEO_FLOORS.items() if found[name] < floor]
    ratio = min(found[name] / floor for name, floor in VIDEO_FLOORS.items())
    result = {
        "benchmark": "nano_video",
        "model": Path(args.model).name if args.model else BUNDLED_VIDEO_MODEL,
        "n_params": n_params,
        "ratio": round(ratio, 4),
        "floors": dict(VIDEO_FLOORS),
        "missed": missed,
        "views": {view.value: report.asdict() for view, report in found_by_view.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "hardware": hardware(),
        "versions": versions("numpy", "pillow"),
        "commit": commit(),
        "command": " ".join(["python", "benchmarks/nano_video.py", *(Path(a).name if "/" in a else a for a in given)]),
    }
    if args.save:
        write_atomic(RESULTS / "nano_video.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 1 if missed and args.floors else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder or hub id; the bundled model by default")
    parser.add_argument("--override", action="append", default=[], help="change of its configuration, max_frames=8 say")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--clips", type=int, help=f"number of clips; by default {N_CLIPS}")
    size.add_argument("--quick", action="store_true", help=f"{QUICK_CLIPS} clips")
    parser.add_argument("--only-clip", action="store_true", help="leave out grey and shuffled frames")
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True, help="fail below the floors")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/nano_video.json")
    parser.add_argument("--batch-size", type=int, default=16, help="questions decoded together")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the clips")
    parser.add_argument("--threads", type=int, default=0, help="threads of CPU arithmetic; 0: PyTorch's choice")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Asked:
    """A model and how it is asked; travels to another process whole, so that several share the clips."""

    folder: str
    overrides: Sequence[str]
    batch_size: int
    n_threads: int

    def __call__(self, view: View, items: Sequence[MovingItem]) -> MovingReport:
        """The report about some clips."""
        if self.n_threads:
            torch.set_num_threads(self.n_threads)
        model = VideoOlmo.from_pretrained(self.folder, overrides=self.overrides)
        return evaluate_moving(model, items, VIDEO_SCENES, view, self.batch_size)


def views(asked: Asked, n_clips: int, args: argparse.Namespace, console: Console) -> dict[View, MovingReport]:
    """The report of each view, from parts of equally many clips."""
    items = moving_items(n_clips, VIDEO_SCENES)
    seeds = list(dict.fromkeys(seed for seed, _ in items))
    wanted = [View.clip] if args.only_clip else list(View)
    parts = [set(seeds[start : start + CLIPS_AT_ONCE]) for start in range(0, len(seeds), CLIPS_AT_ONCE)]
    jobs = [(view, [item for item in items if item[0] in part]) for view in wanted for part in parts]
    found: dict[View, list[MovingReport]] = {view: [] for view in wanted}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("clips", total=len(jobs))
        for done, ((view, _), report) in enumerate(zip(jobs, reports(asked, jobs, args.processes), strict=True), 1):
            found[view].append(report)
            progress.advance(bar)
            if not console.is_terminal:
                print(f"{done} of {len(jobs)} parts", file=sys.stderr, flush=True)
    return {view: joined(of_view) for view, of_view in found.items()}


def reports(
    asked: Asked, jobs: Sequence[tuple[View, Sequence[MovingItem]]], n_processes: int
) -> Iterator[MovingReport]:
    """The report of each job, in order, as soon as it is there."""
    if n_processes == 1:
        yield from itertools.starmap(asked, jobs)
        return
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(asked, *zip(*jobs, strict=True))


def joined(parts: Sequence[MovingReport]) -> MovingReport:
    """One report about the clips of several."""
    chances = [(part.order_chance, part.tasks["order"].n) for part in parts if part.order_chance is not None]
    n_ordered = sum(n for _, n in chances)
    return MovingReport(
        n_clips=sum(part.n_clips for part in parts),
        view=parts[0].view,
        tasks=added([part.tasks for part in parts]),
        forms=added([part.forms for part in parts]),
        order_chance=sum(chance * n for chance, n in chances) / n_ordered if n_ordered else None,
    )


def added(results: Sequence[Mapping[str, TaskResult]]) -> dict[str, TaskResult]:
    """Results by name, summed; the names in the order in which the fullest part has them."""
    names = dict.fromkeys(name for part in sorted(results, key=len, reverse=True) for name in part)
    of = {name: [part[name] for part in results if name in part] for name in names}
    return {name: TaskResult(n=sum(r.n for r in rs), n_right=sum(r.n_right for r in rs)) for name, rs in of.items()}


def print_report(console: Console, reports: Mapping[View, MovingReport]) -> None:
    clip = reports[View.clip]
    numbers = (Column(title, justify="right", no_wrap=True) for title in ("n", *(f"{v.value} %" for v in reports)))
    table = Table(Column("task", no_wrap=True), *numbers, "95 % interval", "floor %", box=SIMPLE_HEAD, pad_edge=False)
    for name, result in clip.tasks.items():
        low, high = result.interval
        shares = [percent(report.tasks[name].accuracy) for report in reports.values()]
        floor = percent(VIDEO_FLOORS.get(name))
        table.add_row(name, str(result.n), *shares, f"{percent(low)} to {percent(high)}", floor)
    console.print(table)
    forms = ", ".join(f"{name} {percent(result.accuracy)} of {result.n}" for name, result in clip.forms.items())
    console.print(f"by form: {forms}")
    console.print(f"order by chance, knowing what happens: {percent(clip.order_chance)} %")


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    sys.exit(main())

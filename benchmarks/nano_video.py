"""How well a model answers questions about clips it has never seen: as they are, in grey, and with frames shuffled.

    python benchmarks/nano_video.py                500 clips, one question of each task a clip allows
    python benchmarks/nano_video.py --quick        40 clips
    python benchmarks/nano_video.py --save         also write benchmarks/results/nano_video.json

Questions about order must fall to chance where frames are shuffled; what is left then was read from the things alone.
The last line is one JSON object. The exit code is 1 when a floor is missed and 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, commit, hardware, versions
from nano_profiles import VIDEO_FLOORS, VIDEO_SCENES
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from olmo.eval.moving_eval import MovingReport, View, evaluate_moving, moving_items
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.bundled import BUNDLED_VIDEO_MODEL, bundled_model_folder
from olmo.models.video_olmo.video_olmo import VideoOlmo

N_CLIPS, QUICK_CLIPS = 500, 40


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
        model = VideoOlmo.from_pretrained(
            args.model or bundled_model_folder(BUNDLED_VIDEO_MODEL), overrides=args.override
        )
        reports = views(model, n_clips, args, console)
    except OLMoError as error:
        Console(stderr=True).print(f"error: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        return 2
    print_report(console, reports)
    clip = reports[View.clip]
    # A few clips may hold no question of some task; its floor is then missed.
    found = {name: (clip.tasks[name].accuracy or 0.0) if name in clip.tasks else 0.0 for name in VIDEO_FLOORS}
    missed = [name for name, floor in VIDEO_FLOORS.items() if found[name] < floor]
    ratio = min(found[name] / floor for name, floor in VIDEO_FLOORS.items())
    result = {
        "benchmark": "nano_video",
        "model": Path(args.model).name if args.model else BUNDLED_VIDEO_MODEL,
        "n_params": model.num_params(),
        "ratio": round(ratio, 4),
        "floors": dict(VIDEO_FLOORS),
        "missed": missed,
        "views": {view.value: report.asdict() for view, report in reports.items()},
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
    parser.add_argument("--threads", type=int, default=0, help="threads of CPU arithmetic; 0: PyTorch's choice")
    return parser.parse_args(arguments)


def views(model: VideoOlmo, n_clips: int, args: argparse.Namespace, console: Console) -> dict[View, MovingReport]:
    """The report of each view."""
    items = moving_items(n_clips, VIDEO_SCENES)
    reports = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for view in [View.clip] if args.only_clip else list(View):
            bar = progress.add_task(view.value, total=len(items))

            def show(done: int, _: int, bar: Any = bar) -> None:
                progress.update(bar, completed=done)

            reports[view] = evaluate_moving(model, items, VIDEO_SCENES, view, args.batch_size, show)
    return reports


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

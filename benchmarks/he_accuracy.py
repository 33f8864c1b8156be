"""What leaving picture tokens out costs in right answers: a HeMolmo at several ratios, beside other scorers.

    python benchmarks/he_accuracy.py MODEL                1000 unseen scenes for the learned scorer, 300 for others
    python benchmarks/he_accuracy.py MODEL --quick        30 scenes for all
    python benchmarks/he_accuracy.py MODEL --keep FOLDER  keep the marks of each row; the same command continues
    python benchmarks/he_accuracy.py MODEL --save         also write benchmarks/results/he_accuracy.json

Every row answers the same questions. The peer is the bundled molmo-nano with all of its tokens; differences to it are
taken answer by answer, so their intervals are narrower than those of the two figures. All scorers use the weights of
the same model, that learned with few tokens. The last line is one JSON object. The exit code is 1 where a promise is
broken: at most 1 point lost at 0.5 and 2 at 0.25 in every task, and random tokens 15 points behind the scorer in
pointing or reading; 2 where the input is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, commit, hardware, versions
from nano import CHUNK, Asked, answers
from nano_profiles import PROFILES
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from olmo.data.scenes.dataset import ScenesDataset
from olmo.eval.report import Z_95, wilson_interval
from olmo.eval.scenes_eval import Answered, Item
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.auto import from_pretrained
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.he_molmo.he_molmo import HeMolmo

LEARNED = "cross"
LOW_RES = "lowres_llm"
PEER = BUNDLED_MODEL
UNTRAINED = ("vit_attention", "norm", "uniform", "random")
RATIOS = (0.5, 0.25, 0.125)
MOST_LOST: Mapping[float, float] = {0.5: 0.01, 0.25: 0.02}
"""Accuracy that a ratio may cost in every task, by the promise."""

RANDOM_BEHIND = 0.15
TEXT_TOKENS = 20
"""Of a question, for the computed cost."""

Marks = dict[str, float]
"""Score of every question, 0 to 1, by scene and task."""


@dataclass(frozen=True)
class Setting:
    """One row: which model answers, and how many scenes it is asked about."""

    scorer: str
    ratio: float
    n_scenes: int

    @property
    def name(self) -> str:
        """For files and people."""
        return f"{self.scorer}-{self.ratio:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate, print, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse(given)
    if args.threads:
        torch.set_num_threads(args.threads)
    console, start = Console(), time.perf_counter()
    machine = hardware()
    try:
        marks = {setting: marks_of(setting, args, console) for setting in settings(args)}
    except OLMoError as error:
        Console(stderr=True).print(f"error: {' '.join(str(error).split())}", style="red", markup=False, soft_wrap=True)
        return 2
    whole = marks[next(s for s in marks if s.scorer == PEER)]
    rows = [row_of(setting, found, whole, args) for setting, found in marks.items()]
    show(console, rows)
    broken = broken_promises(rows)
    for line in broken:
        console.print(f"missed: {line}", markup=False)
    result = {
        "benchmark": "he_accuracy",
        "model": Path(args.model).name,
        "peer": BUNDLED_MODEL,
        "ratio": lowest_ratio(rows),
        "rows": rows,
        "missed": broken,
        "seconds": round(time.perf_counter() - start, 1),
        "hardware": machine,
        "versions": versions("numpy", "pillow"),
        "commit": commit(),
        "command": " ".join(["python", "benchmarks/he_accuracy.py", *(Path(a).name if "/" in a else a for a in given)]),
    }
    if args.save:
        write_atomic(RESULTS / "he_accuracy.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 1 if broken else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="folder of a HeMolmo that grew from the bundled model")
    parser.add_argument("--low-res-model", help=f"folder of one whose scorer is {LOW_RES}; left out by default")
    parser.add_argument("--scenes", type=int, default=1000, help="for the peer and the learned scorer")
    parser.add_argument("--other-scenes", type=int, default=300, help="for the other scorers, the first of those")
    parser.add_argument("--quick", action="store_true", help="30 scenes for all")
    parser.add_argument("--keep", type=Path, help="folder for the marks of each row, so that a run can be continued")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/he_accuracy.json")
    parser.add_argument("--batch-size", type=int, default=32, help="questions decoded together")
    parser.add_argument("--threads", type=int, default=0, help="threads of CPU arithmetic; 0: PyTorch's choice")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the questions")
    args = parser.parse_args(arguments)
    if args.quick:
        args.scenes = args.other_scenes = 30
    return args


def settings(args: argparse.Namespace) -> list[Setting]:
    """The rows, the peer first."""
    if min(args.scenes, args.other_scenes) < 1 or args.other_scenes > args.scenes:
        raise OLMoInputError(
            f"--scenes {args.scenes} and --other-scenes {args.other_scenes}: at least 1, the second at most the first"
        )
    others = [*([LOW_RES] if args.low_res_model else []), *UNTRAINED]
    return [
        Setting(PEER, 1.0, args.scenes),
        *(Setting(LEARNED, ratio, args.scenes) for ratio in (1.0, *RATIOS)),
        *(Setting(scorer, ratio, args.other_scenes) for scorer in others for ratio in RATIOS),
    ]


def marks_of(setting: Setting, args: argparse.Namespace, console: Console) -> Marks:
    """The marks of a row: read where a run before has kept them, asked for otherwise."""
    kept = args.keep / f"{setting.name}-{setting.n_scenes}.json" if args.keep else None
    if kept is not None and kept.is_file():
        found: Marks = json.loads(kept.read_text(encoding="utf-8"))
        return found
    start = time.perf_counter()
    profile, model = PROFILES["wide"], load(setting, args)
    items = ScenesDataset(profile.scenes).evaluation_items(setting.n_scenes)
    chunks: list[Sequence[Item]] = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    asked = Asked(model, profile, args.batch_size, False, args.threads)
    marks = {
        f"{a.seed}/{a.question.task.value}": mark(a) for part in answers(asked, chunks, args.processes) for a in part
    }
    seconds = time.perf_counter() - start
    console.print(f"{setting.name}: {statistics.mean(marks.values()):.1%} of all, {seconds:.0f} s", markup=False)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, json.dumps(marks))
    return marks


def load(setting: Setting, args: argparse.Namespace) -> Any:
    """The model of a row."""
    if setting.scorer == PEER:
        return from_pretrained(bundled_model_folder())
    folder = args.low_res_model if setting.scorer == LOW_RES else args.model
    overrides = [f"token_scorer.scorer={setting.scorer}", f"selection_ratio={setting.ratio}"]
    return HeMolmo.from_pretrained(folder, overrides=overrides)


def mark(answered: Answered) -> float:
    """F1 of the points where some are asked for, else whether the answer is right."""
    return answered.points["f1"] if answered.points is not None else float(answered.is_inside)


def row_of(setting: Setting, marks: Marks, whole: Marks, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a row by task, with their differences to the peer."""
    by_task: dict[str, list[tuple[float, float]]] = {}
    for name, found in marks.items():
        by_task.setdefault(name.partition("/")[2], []).append((found, whole[name]))
    tasks = {task: figures(pairs) for task, pairs in by_task.items()}
    # The mean over tasks: every task counts the same, however often it was asked.
    spread = [task["difference_error"] for task in tasks.values()]
    return {
        "scorer": setting.scorer,
        "ratio": setting.ratio,
        "n_scenes": setting.n_scenes,
        **cost_of(setting, args),
        "mean": round(statistics.mean(task["accuracy"] for task in tasks.values()), 4),
        "mean_difference": round(statistics.mean(task["difference"] for task in tasks.values()), 4),
        "mean_difference_error": round(math.sqrt(sum(s * s for s in spread)) / len(spread), 4),
        "tasks": tasks,
    }


def figures(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean mark, its 95 % interval, and the mean difference to the peer with its 95 % error, all 0 to 1."""
    n, total = len(pairs), sum(found for found, _ in pairs)
    differences = [found - peer for found, peer in pairs]
    error = Z_95 * statistics.stdev(differences) / math.sqrt(n) if n > 1 else 1.0
    return {
        "n": n,
        "accuracy": round(total / n, 4),
        "interval": [round(end, 4) for end in wilson_interval(min(total, n), n)],
        "difference": round(statistics.mean(differences), 4),
        "difference_error": round(error, 4),
    }


def cost_of(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Picture tokens that reach the language model, and operations up to the first token over those of the peer."""
    side = PROFILES["wide"].scenes.image_size
    peer = from_pretrained(bundled_model_folder()).config
    whole = prompt_cost(peer, side, side, n_text_tokens=TEXT_TOKENS)
    cost = prompt_cost(load(setting, args).config, side, side, n_text_tokens=TEXT_TOKENS)
    return {
        "picture_tokens": cost.n_picture_tokens,
        "operations": round(cost.total / whole.total, 4),
        "llm_operations": round(cost.flops.llm / whole.flops.llm, 4),
    }


def broken_promises(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was promised and does not hold, one line each."""
    found = []
    for row in rows:
        most = MOST_LOST.get(row["ratio"]) if row["scorer"] == LEARNED else None
        for task, figure in row["tasks"].items() if most is not None else ():
            if -figure["difference"] > most:
                found.append(f"{task} at {row['ratio']:g} loses {-100 * figure['difference']:.1f} points")
    gap = random_gap(rows)
    if gap < RANDOM_BEHIND:
        found.append(f"random tokens are {100 * gap:.1f} points behind in pointing or reading")
    return found


def random_gap(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far random tokens fall behind learned ones at 0.25, in pointing or reading, whichever is more.

    Both as differences to the peer, for the random ones were asked about fewer scenes.
    """
    of = {row["scorer"]: row["tasks"] for row in rows if row["ratio"] == 0.25}
    tasks = [task for task in ("pointing", "reading") if task in of[LEARNED] and task in of["random"]]
    return max(of[LEARNED][task]["difference"] - of["random"][task]["difference"] for task in tasks)


def lowest_ratio(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean over tasks at 0.25 over the peer's: what is left of its answers for a quarter of the tokens."""
    of = {(row["scorer"], row["ratio"]): row["mean"] for row in rows}
    return float(round(of[LEARNED, 0.25] / of[PEER, 1.0], 4))


def show(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of all rows."""
    names = list(rows[0]["tasks"])
    columns = [Column(name, justify="right") for name in ("operations", "mean", *names)]
    table = Table(Column("scorer"), Column("ratio", justify="right"), *columns, box=SIMPLE_HEAD)
    for row in rows:
        shares = [f"{100 * row['tasks'][name]['accuracy']:.1f}" for name in names]
        table.add_row(
            row["scorer"], f"{row['ratio']:g}", f"{row['operations']:.2f}", f"{100 * row['mean']:.1f}", *shares
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

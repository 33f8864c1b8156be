"""`molmo eval`: asks a model the questions of one or more tasks, scores its answers and shows how it went."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.console import Console
from rich.table import Column, Table

from olmo.cli.option_groups import with_option_groups
from olmo.cli.options import Adapter, Choices, Device, Dtype, MaxNewTokens, SelectionRatio, given
from olmo.cli.session import load_model
from olmo.cli.video_options import VideoChoices
from olmo.eval.asking import AskingOptions, ChooseBy
from olmo.eval.html_report import write_report
from olmo.eval.metrics.caption import CaptionJudge
from olmo.eval.metrics.named import METRICS
from olmo.eval.runner import EvalResult, Progress, run_task
from olmo.eval.tasks import TASKS, EvalTask, metrics_of, task_of, with_data
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.preprocessing.video.sampling import FrameSampling

REPORT_FILE = "report.html"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the data of the one task are, in place of what the task says."""

    data: Annotated[str | None, typer.Option(help="Folder or file of the one task's data, in place of the hub.")] = None
    image_root: Annotated[
        str | None, typer.Option(help="Folder of the videos, or where `molmo data download` put the pictures.")
    ] = None
    split: Annotated[str | None, typer.Option(help="Split of the one task's data.")] = None

    def given(self) -> tuple[str | None, str | None, str | None]:
        """The three of them."""
        return self.data, self.image_root, self.split


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which frames of videos are shown. The names with underscores are those of the product document."""

    max_frames: Annotated[
        int | None, typer.Option("--max-frames", "--max_frames", min=1, help="Frames of a video at most.")
    ] = None
    frame_sampling: Annotated[
        FrameSampling | None, typer.Option("--frame-sampling", "--frame_sampling", help="How frames are chosen.")
    ] = None
    max_fps: Annotated[
        float | None, typer.Option("--max-fps", "--max_fps", help="Frames a second of a video at most.")
    ] = None

    def choices(self) -> VideoChoices:
        """The same as the other commands have them."""
        return VideoChoices(max_frames=self.max_frames, frame_sampling=self.frame_sampling, max_fps=self.max_fps)


@with_option_groups
def eval(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Folder or hub id; molmo-nano is the bundled one.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help="Names (see --list), or a file and its metrics: mine.jsonl:vqa,exact."),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for answers and figures, one below it for each task.")
    ] = Path("evaluations"),
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each task, from the start.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Questions decoded together.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Threads that prepare pictures meanwhile.")] = None,
    data: DataOptions,
    judge: Annotated[str | None, typer.Option(help="module:name of a CaptionJudge, for cap_f1.")] = None,
    score_only: Annotated[
        bool, typer.Option("--score-only", help="Score the answers that are there; no model.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop the answers that are there.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html, the worst answers first.")] = True,
    listed: Annotated[bool, typer.Option("--list", help="Show tasks and metrics, and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a task, and nothing else.")] = False,
    frames: FrameOptions,
    choose_by: Annotated[
        ChooseBy, typer.Option(help="Where there are options: what the model writes, or its likeliest letter.")
    ] = ChooseBy.text,
    max_new_tokens: MaxNewTokens = None,
    selection_ratio: SelectionRatio = None,
    adapter: Adapter = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Ask a model the questions of a task and score its answers; it resumes where it stopped."""
    if listed:
        return _list()
    if model is None or not tasks:
        raise typer.BadParameter("give a model and at least one task; --list shows the tasks")
    if len(tasks) > 1 and data.given() != (None, None, None):
        raise typer.BadParameter("--data, --image-root and --split go with one task; run the others on their own")
    chosen = [with_data(task_of(task), *data.given()) for task in tasks]
    chosen = [replace(task, limit=limit or task.limit, max_new_tokens=max_new_tokens) for task in chosen]
    judging = None if judge is None else _judge(judge)
    for task in chosen:
        metrics_of(task, judging)  # a task that cannot be scored is refused before anything is loaded
    choices = Choices(model=model, adapter=adapter, selection_ratio=selection_ratio, device=device, dtype=dtype)
    loaded = _load(choices, chosen, frames.choices(), score_only)
    name, options = _name(model, adapter), _options(batch_size, workers, choose_by, selection_ratio)
    for task in chosen:
        folder = output / name / task.name
        with _progress(task.name) as progress:
            result = run_task(
                loaded, task, folder, model_name=name, options=options, judge=judging, fresh=fresh, progress=progress
            )
        if report:
            write_report(result, task.open(), folder / REPORT_FILE)
        if as_json:
            typer.echo(json.dumps({**result.asdict(), "folder": str(folder)}))
        else:
            _show(result, folder)


def _load(choices: Choices, tasks: Sequence[EvalTask], for_video: VideoChoices, score_only: bool) -> ModelBase | None:
    """The model, as one that takes videos where a task shows some; None where answers are only scored."""
    if score_only:
        if for_video.names():
            raise typer.BadParameter(f"{', '.join(for_video.names())} is for the model, and --score-only runs none")
        return None
    shows_video = any(task.shows_video(task.open()) for task in tasks)
    if for_video.names() and not shows_video:
        raise typer.BadParameter(f"{', '.join(for_video.names())} is for tasks with videos, and none has one")
    return load_model(choices, for_video if shows_video else None)


def _name(model: str, adapter: str | None) -> str:
    """What folder and report call the model."""
    return Path(model).name + ("" if adapter is None else f"+{Path(adapter).name}")


def _options(
    batch_size: int | None, workers: int | None, choose_by: ChooseBy, selection_ratio: float | None
) -> AskingOptions:
    """What was chosen; the ratio is among it so that answers at another one are not mixed in."""
    generation = given(selection_ratio=selection_ratio) or None
    return AskingOptions(choose_by=choose_by, **given(batch_size=batch_size, n_workers=workers, generation=generation))


def _judge(text: str) -> CaptionJudge:
    """The judge that a person names; a class is called without arguments."""
    module, _, name = text.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OLMoConfigurationError(f"--judge {text!r} is not module:name of a judge: {error}") from None
    judge = found() if isinstance(found, type) else found
    missing = [needed for needed in ("statements", "agreements") if not callable(getattr(judge, needed, None))]
    if missing:
        raise OLMoConfigurationError(
            f"--judge {text!r} has no {' and no '.join(missing)}; see olmo.eval.metrics.caption"
        )
    return judge


def _list() -> None:
    for name, task in TASKS.items():
        typer.echo(f"{name:<19} {task.about} ({', '.join(task.metrics)})")
    typer.echo(f"metrics: {', '.join(sorted(METRICS))}")


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


def _show(result: EvalResult, folder: Path) -> None:
    table = Table(result.task, Column("mean", justify="right"), Column("of", justify="right"))
    for name, value in result.scores.items():
        table.add_row(name, f"{value:.4f}", str(result.counts[name]), style="bold" if name in result.main else None)
    Console().print(table)
    typer.echo(f"{len(result.scored)} questions; answers, figures and report are in {folder}")

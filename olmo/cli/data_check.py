"""`molmo data check`: rows that cannot be trained on, by file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from olmo.data.check import CheckReport, check_rows
from olmo.data.folder import FolderSource
from olmo.data.hub_dataset import HubSource
from olmo.data.mixture_config import MixtureConfig
from olmo.data.source import Source, open_source
from olmo.data.source_config import SourceConfig, SourceKind
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.example_check import check_example

RECIPE_SUFFIXES = (".yaml", ".yml")
DRAWN = (SourceKind.scenes, SourceKind.moving_scenes)
_Check = Callable[[Mapping[str, Any]], list[str | None]]


def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSONL file, folder, recipe, or with --fields a dataset's files or hub id."
        ),
    ],
    fields: Annotated[str | None, typer.Option(help="Field map of a dataset, such as pixmo_count.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a dataset.")] = None,
    image_root: Annotated[
        Path | None,
        typer.Option(help="Folder that paths of pictures and videos start from, or of downloaded pictures."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to look at, of each source.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode; see only whether they are there.")] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="The rows are to be asked, not learned: answers may be missing.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="Bad rows to print, of each source.")] = 100,
) -> None:
    """Find rows that cannot be trained on."""
    looks_at = partial(check_example, is_decoded=not quick, needs_answer=not questions)
    n_bad = 0
    for config, base_dir in _sources(file, fields, split, image_root):
        if config.kind in DRAWN:
            typer.echo(f"{config.name or config.kind.value}: drawn on the spot, nothing to check")
            continue
        report = _check(open_source(config, base_dir), looks_at, limit, show)
        n_bad += len(report.bad)
    if n_bad:
        raise typer.Exit(1)


def _sources(
    file: Path, fields: str | None, split: str | None, image_root: Path | None
) -> Iterator[tuple[SourceConfig, Path]]:
    """What FILE names, and the folder its paths start from."""
    given: dict[str, Any] = {"path": str(file)}
    if image_root is not None:
        given["image_root"] = str(image_root)
    if fields is not None:
        yield SourceConfig(kind=SourceKind.hub, fields=fields, split=split or "train", **given), Path()
    elif split is not None:
        raise OLMoInputError("--split goes with --fields, which says what the columns of a dataset mean")
    elif image_root is not None and (file.is_dir() or file.suffix.lower() in RECIPE_SUFFIXES):
        raise OLMoInputError(
            "--image-root goes with a JSONL file or --fields: the files of a folder lie in it, and a recipe says "
            "image_root itself"
        )
    elif file.suffix.lower() in RECIPE_SUFFIXES:
        for group in MixtureConfig.load(file, key="data").resolved_groups():
            yield from ((config, file.parent) for config in group.sources)
    elif file.is_dir():
        yield SourceConfig(kind=SourceKind.folder, path=str(file)), Path()
    else:
        yield SourceConfig(kind=SourceKind.jsonl, **given), Path()


def _check(source: Source, looks_at: _Check, limit: int | None, n_shown: int) -> CheckReport:
    n_rows = len(source) if limit is None else min(limit, len(source))
    n_seen = 0
    with _progress(source.name, n_rows) as advance:

        def on_row(report: CheckReport) -> None:
            # Bad rows are printed as they come, because a long look may be stopped early.
            nonlocal n_seen
            if n_seen < len(report.bad) <= n_shown:
                typer.echo(f"{report.bad[-1].place}: {' '.join(report.bad[-1].reason.split())}")
            n_seen = len(report.bad)
            advance()

        report = check_rows(source, looks_at, limit, on_row)
    for line in _summary(source, report, n_shown):
        typer.echo(line)
    return report


def _summary(source: Source, report: CheckReport, n_shown: int) -> Iterator[str]:
    if len(report.bad) > n_shown:
        yield f"and {len(report.bad) - n_shown} more bad rows (--show {len(report.bad)} prints all)"
    styles = ", ".join(f"{style} {n}" for style, n in report.styles.most_common(8))
    yield (
        f"{report.name}: {report.n_rows} rows, {len(report.bad)} bad; {report.n_conversations} conversations"
        + (f" (style: {styles})" if styles else "")
    )
    if report.n_repeated:
        yield f"{report.name}: {report.n_repeated} rows say just what an earlier one says"
    if isinstance(source, FolderSource) and source.n_without_text:
        yield f"{report.name}: {source.n_without_text} files have no .txt or .json beside them and are left out"
    if isinstance(source, HubSource) and source.n_missing:
        yield f"{report.name}: {source.n_missing} rows are left out, because their picture was not downloaded"


@contextmanager
def _progress(name: str, n_rows: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=n_rows)
        yield partial(progress.advance, task)

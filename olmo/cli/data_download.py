"""`molmo data download`: the pictures of a dataset that names them by URL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from olmo.data.download import REPORT, DownloadOptions, DownloadReport, Wanted, download_pictures
from olmo.data.field_maps import FIELD_MAPS
from olmo.data.hub_dataset import load_rows
from olmo.data.picture_urls import urls_of_dataset, urls_of_jsonl
from olmo.data.public_http import FetchLimits
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

DEFAULTS = DownloadOptions()


def download(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="Field map such as pixmo_cap, JSONL file, or with --fields a dataset's files."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the pictures go; image_root of a recipe.")],
    fields: Annotated[str | None, typer.Option(help="Field map of the files in DATASET.")] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of the dataset to look at.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Pictures fetched at once.")] = DEFAULTS.n_threads,
    tries: Annotated[int, typer.Option(min=1, help="Tries of one picture.")] = DEFAULTS.n_tries,
    timeout_s: Annotated[float, typer.Option(min=1, help="Seconds without a byte.")] = DEFAULTS.limits.timeout_s,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest file.")] = DEFAULTS.limits.max_bytes / 1e6,
    max_unreached: Annotated[
        int, typer.Option(min=1, help="Pictures in a row without an answer, before the network is taken to be down.")
    ] = DEFAULTS.max_unreached,
    retry_skipped: Annotated[bool, typer.Option("--retry-skipped", help="Ask again for what is gone.")] = False,
    keep_changed: Annotated[
        bool, typer.Option("--keep-changed", help="Keep pictures that differ from those the dataset was made with.")
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also fetch from this machine and from private networks.")
    ] = False,
) -> None:
    """Fetch the pictures of a dataset that names them by URL."""
    limits = FetchLimits(timeout_s=timeout_s, max_bytes=round(max_megabytes * 1e6), allow_private=allow_private)
    options = DownloadOptions(
        limits=limits,
        n_threads=threads,
        n_tries=tries,
        max_unreached=max_unreached,
        retry_skipped=retry_skipped,
        keep_changed=keep_changed,
    )
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Reading the list", total=None)
        wanted = _wanted(dataset, fields, split, limit)
        check_picture = partial(load_image, max_pixels=MolmoPreprocessorConfig().max_pixels)
        report = download_pictures(wanted, folder, check_picture, options, partial(_update, progress, task))
    _print(report, folder)


def _wanted(dataset: str, fields: str | None, split: str, limit: int | None) -> Iterator[Wanted]:
    is_here = Path(dataset).expanduser().exists()
    name = fields if fields is not None else None if is_here else dataset
    if name is None:
        if not dataset.lower().endswith(".jsonl"):
            raise OLMoInputError(
                f"say with --fields what the columns of {dataset} mean: {', '.join(sorted(FIELD_MAPS))}"
            )
        if limit is not None:
            raise OLMoInputError("--limit goes with a dataset; of a JSONL file all pictures are fetched")
        return urls_of_jsonl(Path(dataset).expanduser())
    if name not in FIELD_MAPS:
        raise OLMoInputError(f"{name} is neither a file here nor one of the field maps {', '.join(sorted(FIELD_MAPS))}")
    field_map = FIELD_MAPS[name]
    path = dataset if fields is not None else field_map.repository
    assert path is not None, "the field maps of published datasets name their repository"
    return urls_of_dataset(load_rows(path, field_map.subset, split), field_map, limit)


def _update(progress: Progress, task: TaskID, report: DownloadReport) -> None:
    text = f"{report.n_there_before + report.n_downloaded:,} pictures, {len(report.missing):,} missing"
    progress.update(task, description=text)


def _print(report: DownloadReport, folder: Path) -> None:
    typer.echo(
        f"{folder}: {report.n_wanted:,} pictures wanted, {report.n_there_before:,} were there, "
        f"{report.n_downloaded:,} downloaded, {len(report.missing):,} missing"
    )
    for reason, n in report.by_reason().items():
        typer.echo(f"  {n:,}: {reason}")
    if report.missing:
        typer.echo(f"{folder / REPORT} lists them; run the same command again to try those that may come back")

"""`molmo batch`: answers to a file of requests, in a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import typer
from rich.console import Console

from olmo.cli.options import Adapter, Choices, Device, Dtype, MaxNewTokens, Model, Quantize, given
from olmo.cli.session import chosen_model, load_model
from olmo.cli.video_options import VideoChoices
from olmo.config import apply_overrides
from olmo.exceptions import OLMoConfigurationError
from olmo.models.feature_cache import FeatureCache
from olmo.serve.serve_config import ServeConfig


def batch(
    source: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Requests, one JSON object a line.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="Answers to write, in the order of the requests.")
    ],
    limits: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Limits as of molmo serve: max_rows=8.")
    ] = None,
    *,
    model: Model = None,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model; by default the name of its folder.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop the answers that are there.")] = False,
    for_video: Annotated[bool, typer.Option("--video", help="Take videos too, where the model is a Molmo.")] = False,
    adapter: Adapter = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Answer a file of requests; it goes on where it stopped."""
    runner = _runner()
    choices = Choices(model=model, adapter=adapter, device=device, dtype=dtype, quantize=quantize)
    asked = chosen_model(choices)
    named = given(model_name=name, default_max_tokens=max_new_tokens)
    values = {"model_name": Path(asked).name or asked, **apply_overrides(runner.BATCH_LIMITS, limits or ()), **named}
    settings = ServeConfig.from_dict(values)
    runner.check_files(source, target, fresh)
    loaded = load_model(choices, VideoChoices() if for_video else None)
    loaded.feature_cache = FeatureCache()
    with _progress(source.name) as progress:
        counts = runner.run_batch(loaded, source, target, settings, fresh=fresh, progress=progress)
    kept = f", {counts.n_kept} of them by an earlier run" if counts.n_kept else ""
    typer.echo(f"{counts.n_rows} rows are answered in {target}{kept}; {counts.n_failed} with an error")
    if counts.n_failed:
        raise typer.Exit(1)


def _runner() -> Any:
    try:
        return importlib.import_module("olmo.serve.batch")
    except ModuleNotFoundError as error:
        raise OLMoConfigurationError(f"a batch needs {error.name}: pip install 'molmo[serve]'") from None


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """A count on a terminal; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.TextColumn("{task.completed} rows"),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=None)
        yield lambda n_done: shown.update(task, completed=n_done)

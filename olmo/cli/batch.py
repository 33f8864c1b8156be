"""`molmo batch`: answers to a file of requests, in a file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import rich.progress
import torch
import typer
from rich.console import Console

from olmo.cli.options import Adapter, Choices, Device, Dtype, MaxNewTokens, Model, Quantize, given
from olmo.cli.session import chosen_model, load_model
from olmo.cli.video_options import VideoChoices
from olmo.config import apply_overrides
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.feature_cache import FeatureCache
from olmo.serve.serve_config import ServeConfig


class Engine(StrEnum):
    """Where a batch is answered."""

    local = "local"
    ray = "ray"


def batch(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="Requests: JSONL with an object a line, Parquet, or a folder of such files."),
    ],
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
    prompt: Annotated[
        str | None, typer.Option(help="Ask this about each picture of the folder IN.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    engine: Annotated[Engine, typer.Option(help="local: this machine. ray: a Ray cluster.")] = Engine.local,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes with a model each. local: 1; ray: one a GPU, or one a machine.", show_default=False
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop the answers that are there.")] = False,
    for_video: Annotated[bool, typer.Option("--video", help="Take videos too, where the model is a Molmo.")] = False,
    adapter: Adapter = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Answer a file of requests; it goes on where it stopped."""
    runner = _module("run")
    choices = Choices(model=model, adapter=adapter, device=device, dtype=dtype, quantize=quantize)
    asked = chosen_model(choices)
    named = given(model_name=name, default_max_tokens=max_new_tokens)
    values = {"model_name": Path(asked).name or asked, **apply_overrides(runner.BATCH_LIMITS, limits or ()), **named}
    settings = ServeConfig.from_dict(values)
    runner.check_files(source, target, prompt=prompt, fresh=fresh)
    load = partial(load_for_batch, video=VideoChoices() if for_video else None)
    base = (source if source.is_dir() else source.parent).absolute()
    plan = partial(_module("worker").WorkerPlan, config=settings, base=base)
    answering = _answering(engine, workers, choices, load, plan)
    with answering as answers, _progress(source.name) as progress:
        counts = runner.run_batch(answers, source, target, settings, prompt=prompt, fresh=fresh, progress=progress)
    kept = f", {counts.n_kept} of them by an earlier run" if counts.n_kept else ""
    typer.echo(f"{counts.n_rows} rows are answered in {target}{kept}; {counts.n_failed} with an error")
    if counts.n_failed:
        raise typer.Exit(1)


def _answering(
    engine: Engine,
    workers: int | None,
    choices: Choices,
    load: Callable[[Choices], ModelBase],
    plan: Callable[..., Any],
) -> AbstractContextManager[Any]:
    """A model of this process, or processes with one each."""
    if engine is Engine.ray:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anybody
        uses_gpu = choices.device is not None and choices.device.startswith("cuda")
        chosen = replace(choices, device="cuda") if uses_gpu else choices  # Ray shows each worker its own GPU alone
        return closing(_module("ray").RayWorkers(plan(load=partial(load, _absolute(chosen))), workers, uses_gpu))
    if workers is not None and workers > 1:
        plans = [plan(load=partial(load, _of_one(choices, place))) for place in range(workers)]
        return closing(_module("processes").ProcessWorkers(plans))
    return nullcontext(load(choices))


def load_for_batch(choices: Choices, video: VideoChoices | None) -> ModelBase:
    """The chosen model, which remembers pictures that several rows ask about."""
    loaded = load_model(choices, video)
    loaded.feature_cache = FeatureCache()
    return loaded


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"olmo.serve.batch.{name}")
    except ModuleNotFoundError as error:
        raise OLMoConfigurationError(f"a batch needs {error.name}: pip install 'molmo[serve]'") from None


def _of_one(choices: Choices, place: int) -> Choices:
    """The choices of one process of several, which share out the GPUs."""
    if choices.device == "cuda" and torch.cuda.device_count() > 1:
        return replace(choices, device=f"cuda:{place % torch.cuda.device_count()}")
    return choices


def _absolute(choices: Choices) -> Choices:
    """The same for a process with another current folder."""

    def placed(name: str | None) -> str | None:
        return str(Path(name).absolute()) if name is not None and Path(name).exists() else name

    return replace(choices, model=placed(choices.model), adapter=placed(choices.adapter))


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left on a terminal; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("rows, after"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left:"),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=False),
    )
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(name, total=None)

        def told(n_done: int, n_rows: int) -> None:
            if shown.tasks[0].total is None:  # what an earlier run answered says nothing of the speed of this one
                shown.reset(task, completed=n_done, total=n_rows)
            shown.update(task, completed=n_done)

        yield told

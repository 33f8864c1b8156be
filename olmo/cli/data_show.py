"""`molmo data show`: a page of what a model really sees of its training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo.cli.model_config import find_config
from olmo.cli.options import Model
from olmo.data.mixture import open_mixture
from olmo.data.shown import has_video
from olmo.data.source import open_source
from olmo.data.source_config import SourceConfig, SourceKind
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.io import write_atomic
from olmo.models.auto import config_for_video
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.molmo.molmo import MolmoConfig
from olmo.train.train_config import TrainConfig, TrainTaskName
from olmo.viz.data_page import data_page
from olmo.viz.seen_example import see_example

RECIPE_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class _Shown:
    """What is to be shown: examples by number, and how they are preprocessed."""

    read: Callable[[int], Mapping[str, Any]]
    place: Callable[[int], str]
    n: int | None
    config: MolmoConfig
    model: str
    seed: int
    max_tokens: int | None
    start: int = 0  # index in its stream of the example with number 0; the draws depend on it
    is_of_run: bool = False  # the model is that of a run, and stays as the run has it


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL file, folder, or the recipe of a run.")],
    model: Model = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write. [default: FILE's name with .html, here]")
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="Number of the first example, from 0.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Examples at most.")] = 12,
    seed: Annotated[
        int | None, typer.Option(min=0, help="What wordings and prefixes are drawn from. [default: the recipe's, or 0]")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest sequence. [default: the recipe's, or the model's context]")
    ] = None,
) -> None:
    """Write a page with the crops or frames, tokens, loss mask and points of examples."""
    shown = _of_recipe(file, model) if file.suffix.lower() in RECIPE_ENDINGS else _of_data(file, model)
    seed = shown.seed if seed is None else seed
    stop = first + limit if shown.n is None else min(first + limit, shown.n)
    if first >= stop:
        raise OLMoInputError(f"{file} has {shown.n} examples, so there is none from {first} on")
    config = _for_videos(shown, range(first, stop))
    preprocess = config.build_preprocessor(
        for_inference=False, include_image=True, max_seq_len=max_tokens or shown.max_tokens
    )
    examples = [
        see_example(shown.place(i), partial(shown.read, i), preprocess, (seed, shown.start + i))
        for i in range(first, stop)
    ]
    of_all = f" of {shown.n}" if shown.n is not None else ""
    facts = {
        "model": shown.model,
        "examples": f"{first} to {stop - 1}{of_all}",
        "longest sequence": f"{preprocess.max_seq_len} tokens",
        "seed": seed,
    }
    target = output or Path(f"{file.resolve().stem}.html")
    write_atomic(target, data_page(examples, preprocess, file.name or str(file), facts))
    n_bad = sum(1 for example in examples if example.inputs is None)
    typer.echo(f"{target}: {len(examples)} examples" + (f", {n_bad} cannot be used" if n_bad else ""))


def _for_videos(shown: _Shown, numbers: range) -> MolmoConfig:
    """The configuration; that of a Molmo becomes a VideoOlmo where an example shows a video, unless a run has it."""
    for number in () if shown.is_of_run else numbers:
        with suppress(OLMoInputError, OSError):  # rows that cannot be read are told of on the page
            if has_video(shown.read(number)):
                return config_for_video(shown.config)
    return shown.config


def _of_data(file: Path, model: str | None) -> _Shown:
    """The rows of a file or folder, as a model other than by recipe would see them."""
    kind = SourceKind.folder if file.is_dir() else SourceKind.jsonl
    source = open_source(SourceConfig(kind=kind, path=str(file)))
    name = model or BUNDLED_MODEL
    return _Shown(source.__getitem__, source.place, len(source), find_config(name), name, 0, None)


def _of_recipe(file: Path, model: str | None) -> _Shown:
    """The stream of examples that a run of this recipe learns from, in its order."""
    recipe = TrainConfig.load(file)
    if recipe.task is not TrainTaskName.language:
        raise OLMoInputError(f"{file} is a recipe of task {recipe.task.value}, which learns from no text")
    mixture = open_mixture(recipe.data, recipe.seed, file.parent)
    start = recipe.first_example

    def place(i: int) -> str:
        found = mixture.locate(start + i)
        return f"example {start + i}: {mixture.sources[found.source].place(found.row)}"

    if model is not None:
        config, name = find_config(model), model
    elif recipe.model is not None:
        config, name = MolmoConfig.load(file.parent / recipe.model, recipe.model_overrides), recipe.model
    else:
        if recipe.init_from is None:
            raise OLMoConfigurationError("names no model; give one with --model", "model")
        config, name = find_config(recipe.init_from, recipe.model_overrides), recipe.init_from
    return _Shown(
        lambda i: mixture[start + i],
        place,
        None,
        config,
        name,
        recipe.seed,
        recipe.sequence_length,
        start,
        is_of_run=model is None,
    )

"""`molmo convert`: weights from one layout to another."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from olmo.checkpoint.module_tensors import ModuleTensors
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.adapters import merge_adapter
from olmo.models.auto import from_pretrained
from olmo.models.base import ModelBase
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.molmo.native_release import WEIGHTS, read_native_release
from olmo.torch_util import resolve_dtype


class Layout(enum.StrEnum):
    """What to write."""

    native = "native"
    hf = "hf"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Original release (.tar, or folder with model.pt), model folder, or hub id."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write.")],
    to: Annotated[Layout, typer.Option(help="native: this package's layout; hf: the released Hugging Face layout.")],
    dtype: Annotated[str | None, typer.Option(help="Number format; without it, the stored one.")] = None,
    merge: Annotated[
        str | None, typer.Option("--merge-adapter", help="Folder of an adapter to add to the weights.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is already at TARGET.")] = False,
) -> None:
    """Turn published weights into a native checkpoint, or a checkpoint into the released layout."""
    _check_target(source, target, force)
    wanted = resolve_dtype(dtype or "auto")
    with _steps() as step:
        step(f"Reading {source}")
        if _is_release(Path(source)):
            model = _load_release(Path(source), target, wanted)
        else:
            model = from_pretrained(source, dtype=dtype or "auto")
        if merge is not None:
            step(f"Merging {merge}")
            merge_adapter(model, merge)
        step(f"Writing {target}")
        if to is Layout.native:
            model.save_checkpoint(target)
        else:
            model.save_pretrained_hf(target)
    typer.echo(f"{target} ({to.value}, {model.num_params():,} parameters, {str(model.dtype).removeprefix('torch.')})")
    try:
        model.config.build_tokenizer()
    except OLMoConfigurationError as error:
        typer.echo(f"warning: written without a tokenizer: {error}", err=True)


def _check_target(source: str, target: Path, force: bool) -> None:
    """Refuse to lose anything, before anything is read."""
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise OLMoCheckpointError(f"{target} is the source; choose another folder to write to")
    if target.is_file():
        raise OLMoCheckpointError(f"{target} is a file; choose a folder to write to")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise OLMoCheckpointError(
            f"{target} is not empty; choose another folder, or replace the checkpoint in it with --force"
        )


def _is_release(source: Path) -> bool:
    return source.is_file() or (source / WEIGHTS).is_file()


def _load_release(source: Path, target: Path, dtype: torch.dtype | None) -> ModelBase:
    """An original release as a model; its tensors stay in the mapped file until they are written.

    A .tar is unpacked where the target will be: that disk has room for weights, the one of temporary files may not.
    """
    scratch = next(folder for folder in target.absolute().parents if folder.is_dir())
    values, state = read_native_release(source, scratch=scratch)
    config = MolmoConfig.from_dict(values)
    config.source_dir = (source if source.is_dir() else source.parent).resolve()
    with torch.device("meta"):
        model = Molmo(config)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    ModuleTensors(model).compare(found).require_clean(source)
    model.load_state_dict(state, assign=True)
    return model if dtype is None else model.to(dtype)


@contextmanager
def _steps() -> Iterator[_Steps]:
    """On a terminal, a spinner with the time of each step; a line a step elsewhere."""
    columns = (SpinnerColumn(finished_text="-"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True, soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        steps = _Steps(progress)
        yield steps
        steps.finish()


class _Steps:
    """Announces one step after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, text: str) -> None:
        self.finish()
        if self._progress.disable:
            typer.echo(text, err=True)
        self._progress.add_task(text, total=1)

    def finish(self) -> None:
        """Mark the step before as done."""
        for task in self._progress.task_ids:
            self._progress.update(task, completed=1)

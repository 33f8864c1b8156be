"""`molmo convert`: weights from one layout to another."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from olmo.checkpoint.module_tensors import ModuleTensors
from olmo.cli.steps import check_target, steps
from olmo.exceptions import OLMoConfigurationError
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
    check_target(source, target, force)
    wanted = resolve_dtype(dtype or "auto")
    with steps() as step:
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

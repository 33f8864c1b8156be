"""`molmo export`: a model as a folder for other engines."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from olmo.cli.session import model_folder
from olmo.cli.steps import check_target, steps
from olmo.models.auto import from_pretrained
from olmo.models.export.engines import plugin_obstacles, vllm_obstacles
from olmo.models.export.hf_folder import export_hf
from olmo.models.molmo.molmo_config import MolmoConfig


class Format(enum.StrEnum):
    """What to write."""

    hf = "hf"


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id, in full precision.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[
        Format, typer.Option("--format", help="hf: the released layout, with processor code and chat template.")
    ] = Format.hf,
    dtype: Annotated[str | None, typer.Option(help="Number format; without it, the stored one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is already at OUT.")] = False,
) -> None:
    """Write a model as a folder for transformers and vLLM, and say which engine can run it."""
    check_target(model, target, force)
    with steps() as step:
        step(f"Reading {model}")
        read = from_pretrained(model_folder(model), dtype=dtype or "auto")
        step(f"Writing {target}")
        export_hf(read, target)
    number_format = str(read.dtype).removeprefix("torch.")
    typer.echo(f"{target} ({to}, {read.num_params():,} parameters, {number_format})")
    for line in _engines(read.config):
        typer.echo(line)


def _engines(config: MolmoConfig) -> list[str]:
    if not vllm_obstacles(config):
        return ["vLLM: its own Molmo class takes it"]
    if not plugin_obstacles(config):
        return ["vLLM: with the plugin in integrations/vllm_olmo; see docs/vllm.md"]
    return ["vLLM: cannot run it", *(f"  {reason}" for reason in plugin_obstacles(config))]

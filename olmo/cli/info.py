"""`molmo info`: how large a model is and what it needs, without its weights."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from olmo.cli.model_config import find_config
from olmo.models.auto import model_class
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.he_molmo.kept_patches import KeptCount, kept_of_size
from olmo.models.info import ModelInfo, model_info, picture_tokens
from olmo.models.molmo.molmo import MolmoConfig

PICTURE_SIZES = ((336, 336), (640, 480), (1024, 1024), (1920, 1080))
"""Widths and heights to show tokens for, in pixels."""

COUNTED = (
    "Memory counts the weights and the keys and values of one sequence of full context. int8 keeps matrices at one "
    "byte a number, all else as bf16. Activations and the program itself come on top."
)


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Preset, YAML file, model folder or hub id.")
    ] = BUNDLED_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the sizes of a model and the memory it needs."""
    config = find_config(model)
    facts = model_info(config, model_class(config.model_name))
    tokens = {f"{w}x{h}": picture_tokens(config, w, h) for w, h in PICTURE_SIZES if config.image_spec is not None}
    if as_json:
        typer.echo(json.dumps(_as_json(model, config, facts, tokens)))
    else:
        _print(model, config, facts, tokens)


def _kept(config: MolmoConfig) -> dict[str, KeptCount]:
    """Picture tokens that a HeMolmo keeps of pictures of each size; nothing for other models."""
    if not isinstance(config, HeMolmoConfig) or config.image_spec is None:
        return {}
    return {f"{w}x{h}": kept_of_size(w, h, config) for w, h in PICTURE_SIZES}


def _as_json(model: str, config: MolmoConfig, facts: ModelInfo, tokens: dict[str, int | None]) -> dict[str, Any]:
    memory = {
        name: {"weights_bytes": m.weights_bytes, "cache_bytes": m.cache_bytes, "total_bytes": m.total_bytes}
        for name, m in facts.memory.items()
    }
    selection = {}
    if isinstance(config, HeMolmoConfig):
        kept = {size: {"kept": n.n_kept, "total": n.n_tokens} for size, n in _kept(config).items()}
        selection = {"selection": {"ratio": config.selection_ratio, "picture_tokens": kept}}
    return {
        "model": model,
        "model_name": config.model_name,
        "parameters": facts.n_params,
        "active_parameters": facts.n_active_params,
        "parameters_by_part": facts.n_params_by_part,
        "context_tokens": facts.max_sequence_length,
        "picture_tokens": tokens,
        **selection,
        "memory": memory,
    }


def _print(model: str, config: MolmoConfig, facts: ModelInfo, tokens: dict[str, int | None]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold")
    table.add_row("Model", f"{model} ({config.model_name})")
    active = f", {_count(facts.n_active_params)} active" if facts.n_active_params != facts.n_params else ""
    table.add_row("Parameters", _count(facts.n_params) + active)
    for part, n in facts.n_params_by_part.items():
        table.add_row(f"  {part}", _count(n))
    table.add_row("Context", f"{facts.max_sequence_length:,} tokens")
    kept = _kept(config)
    for size, n_tokens in tokens.items():
        stays = f"; of its {kept[size].n_tokens:,} patch tokens {kept[size].n_kept:,} are kept" if size in kept else ""
        table.add_row(f"Picture {size}", f"{n_tokens:,} tokens{stays}")
    if isinstance(config, HeMolmoConfig):
        table.add_row("Selection", f"{config.selection_ratio:g} of a row's picture tokens")
    console.print(table)
    memory = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Memory", "weights", "cache", "together"):
        memory.add_column(title, justify="left" if title == "Memory" else "right")
    for name, m in facts.memory.items():
        memory.add_row(name, _size(m.weights_bytes), _size(m.cache_bytes), _size(m.total_bytes))
    console.print()
    console.print(memory)
    console.print()
    console.print(COUNTED, soft_wrap=False, style="dim")


def _count(n: int) -> str:
    for unit, scale in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if n >= scale:
            return f"{n / scale:.2f} {unit} ({n:,})"
    return str(n)


def _size(n_bytes: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:,.1f} {unit}"
    return f"{n_bytes / 2**10:,.1f} KiB"

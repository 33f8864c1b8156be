"""`molmo info`: how large a model is and what it needs, without its weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from olmo.cli.model_config import find_config
from olmo.cli.options import SelectionRatio, given
from olmo.exceptions import OLMoInputError
from olmo.models.auto import model_class
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.he_molmo.cost import flops_by_part
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.he_molmo.kept_patches import KeptCount, kept_of_size
from olmo.models.inference_memory import InferenceMemory, Prompts, inference_memory
from olmo.models.info import ModelInfo, model_info, picture_tokens
from olmo.models.molmo.molmo import MolmoConfig

PICTURE_SIZES = ((336, 336), (640, 480), (1024, 1024), (1920, 1080))
"""Widths and heights to show tokens for, in pixels."""

QUESTION_TOKENS = 32
"""Tokens of a prompt beside its picture, where operations are shown."""

COUNTED = (
    "Memory counts the weights and the keys and values of one sequence of full context. int8 keeps matrices at one "
    "byte a number, all else as bf16. Activations and the program itself come on top."
)


def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Preset, YAML file, model folder or hub id.")
    ] = BUNDLED_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prompt, to see what answering it takes.", show_default=False)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Prompts answered together; 1 without it.", show_default=False)
    ] = None,
    crops: Annotated[
        int | None, typer.Option(min=0, help="Crops or frames of a prompt; 0 without it.", show_default=False)
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=0, help="Most tokens of an answer; 0 without it.", show_default=False)
    ] = None,
    selection_ratio: SelectionRatio = None,
) -> None:
    """Show the sizes of a model and the memory it needs."""
    config = find_config(model)
    if selection_ratio is not None:
        if not isinstance(config, HeMolmoConfig):
            raise OLMoInputError(f"--selection-ratio is for a HeMolmo, and {model} is a {config.model_name}")
        config = find_config(model, [f"selection_ratio={selection_ratio}"])
    sizes = given(batch_size=batch, n_tokens=tokens, n_crops=crops, n_new_tokens=new_tokens)
    prompts = Prompts(**{"batch_size": 1, **sizes}) if tokens is not None else None
    if sizes and prompts is None:
        raise typer.BadParameter("say how long a prompt is", param_hint="--tokens")
    cls = model_class(config.model_name)
    facts = model_info(config, cls)
    answering = {} if prompts is None else inference_memory(config, cls, prompts)
    per_picture = {f"{w}x{h}": picture_tokens(config, w, h) for w, h in PICTURE_SIZES if config.image_spec is not None}
    if as_json:
        told = _as_json(model, config, facts, per_picture)
        typer.echo(json.dumps(told | _answering_as_json(prompts, answering)))
    else:
        _print(model, config, facts, per_picture)
        if prompts is not None:
            _print_answering(prompts, answering)


def _kept(config: MolmoConfig) -> dict[str, KeptCount]:
    """Picture tokens that a HeMolmo keeps of pictures of each size; nothing for other models."""
    if not isinstance(config, HeMolmoConfig) or config.image_spec is None:
        return {}
    return {f"{w}x{h}": kept_of_size(w, h, config) for w, h in PICTURE_SIZES}


def _flops(config: MolmoConfig) -> dict[str, dict[str, tuple[float, float]]]:
    """Operations of a prompt with and without selection, by size of its picture and by part."""
    if not isinstance(config, HeMolmoConfig) or config.image_spec is None:
        return {}
    return {f"{w}x{h}": flops_by_part(config, w, h, n_text_tokens=QUESTION_TOKENS) for w, h in PICTURE_SIZES}


def _as_json(model: str, config: MolmoConfig, facts: ModelInfo, tokens: dict[str, int | None]) -> dict[str, Any]:
    memory = {
        name: {"weights_bytes": m.weights_bytes, "cache_bytes": m.cache_bytes, "total_bytes": m.total_bytes}
        for name, m in facts.memory.items()
    }
    selection = {}
    if isinstance(config, HeMolmoConfig):
        kept = {size: {"kept": n.n_kept, "total": n.n_tokens} for size, n in _kept(config).items()}
        flops = {
            size: {part: {"selected": some, "all": whole} for part, (some, whole) in parts.items()}
            for size, parts in _flops(config).items()
        }
        selection = {"selection": {"ratio": config.selection_ratio, "picture_tokens": kept, "prompt_flops": flops}}
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
    _print_selection(console, config)
    memory = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Memory", "weights", "cache", "together"):
        memory.add_column(title, justify="left" if title == "Memory" else "right")
    for name, m in facts.memory.items():
        memory.add_row(name, size_text(m.weights_bytes), size_text(m.cache_bytes), size_text(m.total_bytes))
    console.print()
    console.print(memory)
    console.print()
    console.print(COUNTED, soft_wrap=False, style="dim")


def _print_selection(console: Console, config: MolmoConfig) -> None:
    """What the selection of a HeMolmo leaves of the operations of a prompt."""
    found = _flops(config)
    if not found:
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Prompt", *next(iter(found.values())), "operations"):
        table.add_column(title, justify="left" if title == "Prompt" else "right")
    for size, parts in found.items():
        every = parts["total"][1]
        shares = [f"{some / (whole or every):.1%}" if whole or some else "none" for some, whole in parts.values()]
        table.add_row(size, *shares, f"{parts['total'][0]:.3g} of {every:.3g}")
    console.print()
    console.print(table)
    console.print(
        f"Operations of a picture and {QUESTION_TOKENS} tokens of text, as shares of those without selection; of the "
        "scorer, which is new, the share of all.",
        soft_wrap=False,
        style="dim",
    )


def _answering_as_json(prompts: Prompts | None, answering: dict[str, InferenceMemory]) -> dict[str, Any]:
    if prompts is None:
        return {}
    formats = {name: {**asdict(m), "total_bytes": m.total_bytes} for name, m in answering.items()}
    return {"answering": {"prompts": asdict(prompts), "memory": formats}}


def _print_answering(prompts: Prompts, answering: dict[str, InferenceMemory]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Answering", "weights", "keys and values", "activations", "total"):
        table.add_column(title, justify="left" if title == "Answering" else "right")
    for name, m in answering.items():
        table.add_row(name, *map(size_text, (m.weights_bytes, m.cache_bytes, m.activation_bytes, m.total_bytes)))
    console.print()
    console.print(table)
    console.print(
        f"{prompts.batch_size} prompt(s) of {prompts.n_tokens} tokens with {prompts.n_crops} crop(s) each and "
        f"{prompts.n_new_tokens} new tokens, at the peak of the pass over the prompts. The program comes on top.",
        soft_wrap=False,
        style="dim",
    )


def _count(n: int) -> str:
    for unit, scale in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if n >= scale:
            return f"{n / scale:.2f} {unit} ({n:,})"
    return str(n)


def size_text(n_bytes: int) -> str:
    """Bytes for people: `14.9 GiB`."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:,.1f} {unit}"
    return f"{n_bytes / 2**10:,.1f} KiB"

"""`molmo doctor`: what is installed, what is missing and what for, which devices there are, and what fits on them."""

from __future__ import annotations

import json
import platform
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from olmo import __version__
from olmo.cli.info import size_text
from olmo.cli.installation import PURPOSES, lacks, requirements, version_of
from olmo.cli.model_config import find_config
from olmo.exceptions import OLMoCheckpointError
from olmo.models.auto import model_class
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.models.fits import HEADROOM, DeviceMemory, device_memories, needed_bytes
from olmo.models.info import model_info
from olmo.models.presets import MODEL_PRESETS
from olmo.torch_util import bfloat16_slowdown

COUNTED = (
    f"What a model needs: its weights, keys and values of one full context, and {HEADROOM - 1:.0%} on top. "
    "tight: it fits, but not beside what is in the memory now."
)

SLOW = 2.0
"""Slowdown by bfloat16 from which it is no gain to halve the memory."""


def doctor(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Models to look for room for; without them, the whole family."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is installed, what is missing, and which models fit in memory."""
    facts = _installation()
    if not as_json:
        _print_installation(facts)
    devices = device_memories()
    needs = {name: _needed(name) for name in models or (BUNDLED_MODEL, *MODEL_PRESETS)}
    if as_json:
        typer.echo(json.dumps({**facts, "devices": _devices_as_json(devices, needs), "needed_bytes": needs}))
    else:
        for device in devices:
            _print_room(device, needs)
        Console(highlight=False).print(COUNTED, style="dim")
    if facts["needed"]["missing"]:
        raise typer.Exit(1)


def _installation() -> dict[str, Any]:
    """Everything that is known without looking at a model."""
    parts = {"needed": {"missing": [str(lack) for lack in lacks()], "for": "everything"}}
    extras = {
        name: {"missing": [str(lack) for lack in lacks(name)], "for": purpose}
        for name, purpose in PURPOSES.items()
        if requirements(name)  # an installation knows the extras it was built with
    }
    return {
        "molmo": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "bfloat16_slowdown": round(bfloat16_slowdown(), 1),
        "bundled_model": _bundled_model(),
        "versions": {r.name: version_of(r.name) for r in requirements()},
        **parts,
        "extras": extras,
    }


def _bundled_model() -> str | None:
    """Name of the model that came with the package; None where this installation is without."""
    try:
        bundled_model_folder()
    except OLMoCheckpointError:
        return None
    return BUNDLED_MODEL


def _needed(name: str) -> dict[str, int]:
    config = find_config(name)
    return needed_bytes(model_info(config, model_class(config.model_name)))


def _print_installation(facts: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"molmo {facts['molmo']}, Python {facts['python']}, {facts['system']}")
    console.print(f"torch {facts['torch']}, {facts['threads']} threads")
    slowdown = facts["bfloat16_slowdown"]
    advice = "it has no units for it; take float32 where that fits" if slowdown > SLOW else "as it should be"
    console.print(f"bfloat16 takes {slowdown:g} times as long as float32 on this CPU: {advice}")
    console.print(f"bundled model: {facts['bundled_model'] or 'none; install the package again'}\n")
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Part", "For", "Missing"):
        table.add_column(title)
    for name, part in {"needed": facts["needed"], **facts["extras"]}.items():
        table.add_row(name, part["for"], ", ".join(part["missing"]) or "nothing")
    console.print(table)
    lacking = [name for name, part in facts["extras"].items() if part["missing"]]
    if lacking:
        # The brackets are no markup.
        console.print(f"\nTo get what is missing: pip install 'molmo[{','.join(lacking)}]'", markup=False)
    elif not facts["versions"]:
        console.print("\nThis is a source tree that was not installed, so what it needs is not known: pip install .")


def _print_room(device: DeviceMemory, needs: dict[str, dict[str, int]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    named = f"{device.device} ({device.name})" if device.name else device.device
    total = "memory not known" if device.total_bytes is None else size_text(device.total_bytes)
    free = "" if device.free_bytes is None else f", {size_text(device.free_bytes)} free"
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("Fits")
    for form in next(iter(needs.values())):
        table.add_column(form, justify="right")
    for name, by_format in needs.items():
        table.add_row(name, *(f"{size_text(n)} {device.fit(n) or '?':5}" for n in by_format.values()))
    console.print(f"\n{named}: {total}{free}")
    console.print(table)


def _devices_as_json(devices: list[DeviceMemory], needs: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    return [
        {
            "device": d.device,
            "name": d.name,
            "total_bytes": d.total_bytes,
            "free_bytes": d.free_bytes,
            "fits": {name: {form: d.fit(n) for form, n in by_format.items()} for name, by_format in needs.items()},
        }
        for d in devices
    ]

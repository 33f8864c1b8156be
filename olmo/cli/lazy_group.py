"""A group of commands, known by name and imported when called, so that help does not wait for torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


def lazy_group(commands: Mapping[str, str], prefix: str) -> type[TyperGroup]:
    """The class of a group.

    Args:
        commands: summaries by name.
        prefix: what stands before a command's name in the name of its module, such as `olmo.cli.`. The module holds,
            under the command's name, a function, or a `typer.Typer` that is a group in turn.
    """

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """A stand-in that has the summary, which is what a listing needs."""
            return TyperCommand(cmd_name, help=commands[cmd_name]) if cmd_name in commands else None

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            name, found, rest = super().resolve_command(ctx, args)
            return name, found if name is None else _load(name, prefix, commands[name]), rest

    return LazyGroup


def _load(name: str, prefix: str, summary: str) -> Any:
    target = getattr(importlib.import_module(f"{prefix}{name}"), name)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    single = typer.Typer(add_completion=False)
    single.command(name, help=summary)(target)
    return typer.main.get_command(single)

"""Options that stand once and are taken by several commands: a dataclass of options as one parameter of a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Make each field of a dataclass that a command takes an option of its own.

    Args:
        command: a function that typer makes a command of. Where a parameter's type is a dataclass, the fields of that
            class stand in the parameter's place, with their own types, help and defaults; the command gets the object.

    Returns:
        The function that typer is given.
    """
    types = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = types[parameter.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            options += _options_of(kind)
        else:
            options.append(parameter.replace(annotation=types[parameter.name]))

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        command(**values)

    names = [option.name for option in options]
    assert len(names) == len(set(names)), f"two options of one name among {names}"
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def _options_of(group: Any) -> list[inspect.Parameter]:
    types = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for field in dataclasses.fields(group)
    ]

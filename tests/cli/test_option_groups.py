from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from olmo.cli.option_groups import with_option_groups


@dataclass(frozen=True, kw_only=True)
class Size:
    """Two options."""

    width: Annotated[int | None, typer.Option("--width", "-w", min=1, help="How wide.")] = None
    is_round: Annotated[bool, typer.Option("--round")] = False


def run(*words: str):
    seen: list[tuple[str, Size, int]] = []

    @with_option_groups
    def draw(name: Annotated[str, typer.Argument()], *, size: Size, copies: int = 1) -> None:
        """Draw something."""
        seen.append((name, size, copies))

    app = typer.Typer()
    app.command()(draw)
    return CliRunner().invoke(app, list(words)), seen


def test_each_field_is_an_option_and_the_command_gets_the_object():
    result, seen = run("x", "-w", "3", "--round", "--copies", "2")
    assert result.exit_code == 0 and seen == [("x", Size(width=3, is_round=True), 2)]
    assert run("x")[1] == [("x", Size(), 1)]


def test_help_and_checks_are_those_of_the_fields():
    text = run("--help")[0].output
    assert "How wide." in text and "Draw something." in text and "--size" not in text
    result, seen = run("x", "--width", "0")
    assert result.exit_code == 2 and not seen


def test_two_options_of_one_name_are_our_own_bug():
    def draw(size: Size, width: int = 1) -> None:
        """Draw something."""

    with pytest.raises(AssertionError, match="width"):
        with_option_groups(draw)

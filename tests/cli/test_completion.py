"""What a shell offers behind the tabulator key, asked as its script asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def offered(shell: str, line: str) -> list[str]:
    """What completion offers for a line that ends at the cursor."""
    words = line.split(" ")
    if shell == "bash":
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; sys.argv[0] = 'molmo'; from olmo.cli.main import main; main()"
    environment = {**os.environ, **asked, "_MOLMO_COMPLETE": f"complete_{shell}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in result.stderr, result.stderr
    return result.stdout.split("\n")


def test_commands() -> None:
    found = offered("bash", "molmo d")
    assert {"data", "demo", "doctor"} <= set(found) and "ask" not in found


def test_commands_of_a_group() -> None:
    assert "show" in offered("bash", "molmo data s")


def test_options_of_a_command() -> None:
    assert "--max-new-tokens" in offered("bash", "molmo ask --max-n")


def test_another_shell() -> None:
    assert any(line.startswith("doctor") for line in offered("fish", "molmo do"))


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef molmo"), ("fish", "complete")])
def test_the_script_of_a_shell(shell: str, word: str) -> None:
    code = "import sys; sys.argv[0] = 'molmo'; from olmo.cli.main import main; main()"
    environment = {**os.environ, "_MOLMO_COMPLETE": f"source_{shell}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert word in result.stdout

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest
import typer

import olmo
from olmo.cli import main
from olmo.cli.errors import one_line


def test_version(molmo):
    assert molmo("--version") == (0, f"molmo {olmo.__version__}\n", "")


def test_help_lists_every_command(molmo):
    result = molmo("--help")
    assert result.code == 0
    for name in main.COMMANDS:
        assert name in result.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_help_that_agrees_with_its_summary(molmo, name):
    result = molmo(name, "--help")
    assert result.code == 0
    assert f"Usage: molmo {name}" in result.out
    command = getattr(importlib.import_module(f"olmo.cli.{name}"), name)
    if isinstance(command, typer.Typer):
        command = command.registered_callback.callback
    assert command.__doc__ == main.COMMANDS[name]


@pytest.mark.parametrize("arguments", [("aks",), ("--nonsense",), ("info", "--nonsense"), ("ask",)])
def test_wrong_usage_exits_with_2(molmo, arguments):
    result = molmo(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage" in result.err


def test_help_waits_for_no_torch():
    code = "import sys; from olmo.cli.main import run; run(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (BrokenPipeError(32, "Broken pipe"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_interrupts_and_closed_pipes_are_quiet(molmo, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr("olmo.cli.info.find_config", fail)
    assert molmo("info") == (code, "", "")


def test_a_full_disk_is_one_line(molmo, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "x.png")

    monkeypatch.setattr("olmo.cli.info.find_config", fail)
    assert molmo("info") == (1, "", "error: [Errno 28] No space left on device: 'x.png'\n")


def test_warnings_are_one_line(molmo, monkeypatch):
    def warn(*_):
        warnings.warn("first\n  second", stacklevel=1)
        warnings.warn("ours to mend", FutureWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("olmo.cli.info.find_config", warn)
    assert molmo("info").err == "warning: first second\n"


def test_long_messages_are_cut_and_counted():
    error = ValueError("does not fit:\n" + "\n".join(f"missing {i}" for i in range(100)))
    assert one_line(error) == "does not fit; missing 0; missing 1; missing 2; and 97 more (MOLMO_DEBUG=1 shows all)"
    assert one_line(ValueError("a  b\n\n")) == "a b"
    assert one_line(ValueError()) == ""

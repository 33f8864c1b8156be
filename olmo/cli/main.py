"""`molmo`: finds the command, runs it, and turns what goes wrong into one line and an exit code.

A command's module is imported when the command runs, so `molmo --help` does not wait for torch. This is the one place
that reads the environment: `MOLMO_DEBUG=1` shows tracebacks.

Exit codes: 0 done, 1 an error the user can mend (or a closed pipe), 2 wrong usage, 70 a bug, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from olmo import __version__
from olmo.cli.errors import EXIT_BUG, EXIT_ERROR, EXIT_INTERRUPTED, one_line
from olmo.cli.lazy_group import lazy_group
from olmo.exceptions import OLMoError

COMMANDS = {
    "ask": "Ask a question about pictures or a video.",
    "chat": "Talk about pictures or a video, turn by turn.",
    "info": "Show the sizes of a model and the memory it needs.",
    "convert": "Turn published weights into a native checkpoint, or a checkpoint into the released layout.",
    "export": "Write a model as a folder for transformers and vLLM, and say which engine can run it.",
    "quantize": "Write a model with its matrices in fewer bits, and report what that does to it.",
    "frames": "Show which frames of a video a model is given.",
    "data": "Check, show and download training data.",
    "train": "Run a training recipe; it resumes where it stopped.",
    "plot": "Draw losses, evaluations, learning rates and speed of runs.",
    "eval": "Ask a model the questions of a task and score its answers; it resumes where it stopped.",
    "serve": "Answer over HTTP, in the OpenAI chat protocol.",
    "batch": "Answer a file of requests; it goes on where it stopped.",
    "demo": "Ask the bundled models about a bundled picture and a bundled clip.",
    "doctor": "Show what is installed, what is missing, and which models fit in memory.",
}
"""Commands and their summaries; each lives in the module of its name."""


app = typer.Typer(cls=lazy_group(COMMANDS, "olmo.cli."), no_args_is_help=True)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"molmo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Vision-language models that answer questions about pictures and videos, and point."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: what follows `molmo`; None takes those of the process.

    Returns:
        The exit code.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run(arguments)
            sys.stdout.flush()
        return 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
    except Exception as error:
        if os.environ.get("MOLMO_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        return _report(error)


def _run(arguments: Sequence[str] | None) -> None:
    """Run and return only on success; typer itself reports wrong usage and exits with 2."""
    try:
        typer.main.get_command(app)(None if arguments is None else list(arguments), prog_name="molmo")
    except SystemExit as leaving:
        if leaving.code:
            raise


def _report(error: Exception) -> int:
    """Print what went wrong in one line; returns the exit code."""
    if isinstance(error, OLMoError | OSError):
        typer.echo(f"error: {one_line(error)}", err=True)
        return EXIT_ERROR
    hint = "this should not happen; run it again with MOLMO_DEBUG=1 to see where, and report it"
    typer.echo(f"error: {type(error).__name__}: {one_line(error)} ({hint})", err=True)
    return EXIT_BUG


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, DeprecationWarning | FutureWarning):
        return  # for the authors of programs, not for those who run them
    typer.echo(f"warning: {' '.join(str(message).split())}", err=True)


def main() -> None:
    """Entry point of the `molmo` program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold characters that a terminal cannot show
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output is gone; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()

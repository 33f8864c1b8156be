"""Steps of a command that takes a while, announced one after another; and the folder such a command writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from olmo.exceptions import OLMoCheckpointError


@contextmanager
def steps() -> Iterator[Steps]:
    """On a terminal, a spinner with the time of each step; a line a step elsewhere."""
    columns = (SpinnerColumn(finished_text="-"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True, soft_wrap=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        announced = Steps(progress)
        yield announced
        announced.finish()


class Steps:
    """Announces one step after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, text: str) -> None:
        """Begin a step; the one before is done."""
        self.finish()
        if self._progress.disable:
            typer.echo(text, err=True)
        self._progress.add_task(text, total=1)

    def finish(self) -> None:
        """Mark the step before as done."""
        for task in self._progress.task_ids:
            self._progress.update(task, completed=1)


def check_target(source: str, target: Path, force: bool) -> None:
    """Refuse to lose anything, before anything is read.

    Args:
        source: what is read.
        target: folder to write.
        force: replace a checkpoint that is there.

    Raises:
        OLMoCheckpointError: the target is the source, a file, or not empty.
    """
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise OLMoCheckpointError(f"{target} is the source; choose another folder to write to")
    if target.is_file():
        raise OLMoCheckpointError(f"{target} is a file; choose a folder to write to")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise OLMoCheckpointError(
            f"{target} is not empty; choose another folder, or replace the checkpoint in it with --force"
        )

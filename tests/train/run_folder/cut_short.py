"""Ends a process, or fills its disk, at any one point of what it writes: between two calls to the system, or in a file.

A child of this process is a copy of it, so nothing has to be imported again. Python tells of every file opened, folder
made, renamed or removed (audit hooks), and files that are written go through a stream that stops in mid-write. A point
is a call, or a piece of 256 bytes of a file.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIECE = 256
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir", "os.scandir"}


class Points:
    """Counts points below a folder, and calls `at_the_end` at the last one that is allowed."""

    def __init__(self, folder: Path, n_allowed: int, at_the_end: Callable[[], None]) -> None:
        self.folder, self.left, self.at_the_end = str(folder), n_allowed, at_the_end

    def pass_one(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.at_the_end()

    def is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS and self.is_ours(arguments[0]):
            self.pass_one()


class StoppingFile(io.FileIO):
    """Writes piece after piece."""

    points: Points

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            self.points.pass_one()
            super().write(view[start : start + PIECE])
        return len(view)


def open_with(points: Points) -> Callable[..., Any]:
    """A replacement of `io.open` whose files for writing pass points."""
    plain = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *args: Any) -> Any:
        if "w" not in mode or not points.is_ours(file):
            return plain(file, mode, buffering, encoding, *args)
        raw = StoppingFile(file, "w")
        raw.points = points
        return raw if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, write_through=True)

    return opened


def killed_at(n_points: int, folder: Path, work: Callable[[], None]) -> bool:
    """Run work in a copy of this process that is killed after some points; whether it was killed before its end."""
    if (child := os.fork()) == 0:
        try:
            points = Points(folder, n_points, lambda: os.kill(os.getpid(), signal.SIGKILL))
            io.open = open_with(points)
            sys.addaudithook(points.on_event)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed"
    return False


def full_disk_open(n_points: int, folder: Path) -> Callable[..., Any]:
    """A replacement of `io.open` for a disk that has room for some pieces of files."""

    def no_room() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    return open_with(Points(folder, n_points, no_room))

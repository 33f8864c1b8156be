"""The files of a batch: answers grow in `OUT.part` and become `OUT` when they are whole.

The first line of the part says what the answers are answers to, so that a run that was killed goes on, and answers of
another model or to other rows are never mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from olmo.exceptions import OLMoInputError
from olmo.io import sync_to_disk

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class BatchOutput:
    """The answers of one batch, in the order of its rows.

    Args:
        target: the file that is to hold them.

    Attributes:
        part: where they are until they are whole.
        n_done: rows that have a line.
        n_failed: those among them whose line is an error.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f"{target.name}.part")
        self.n_done = self.n_failed = 0
        self._file: IO[bytes] | None = None

    def begin(self, settings: Mapping[str, Any], fresh: bool = False) -> Self:
        """Open the part and count what is in it.

        Args:
            settings: plain values that decide the answers.
            fresh: drop the answers that are there.

        Raises:
            OLMoInputError: another process writes it, or the answers that are there were made with other settings.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("a+b")
        _lock(self._file, self.part)
        head = json.dumps({"batch": dict(settings)}, sort_keys=True).encode() + b"\n"
        self._file.seek(0)
        found = b"" if fresh else self._file.readline()
        if not found.endswith(b"\n"):  # nothing, or a first line that was cut off
            self._file.truncate(0)
            self._append(head)
        elif found != head:
            raise OLMoInputError(
                f"{self.part} holds answers of an earlier run, which differs in {_difference(found, head)}; run that "
                "one again to go on with it, choose another name, or drop them with --fresh"
            )
        else:
            self._count(len(head))
        return self

    def add(self, line: Mapping[str, Any]) -> None:
        """Write the next answer; it is in the file when this returns."""
        self._append(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self.n_done += 1
        self.n_failed += line["error"] is not None

    def finish(self) -> None:
        """Put the answers in place, all at once."""
        assert self._file is not None, "begin comes first"
        saving = self.target.with_name(f".{self.target.name}.saving-{os.getpid()}")
        try:
            self._file.seek(0)
            self._file.readline()
            with saving.open("wb") as file:
                shutil.copyfileobj(self._file, file)
            sync_to_disk(saving)
            saving.replace(self.target)
        finally:
            saving.unlink(missing_ok=True)
        sync_to_disk(self.target.parent)
        self.part.unlink()

    def close(self) -> None:
        """Let go of the part, which stays where `finish` was not called."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: bytes) -> None:
        assert self._file is not None, "begin comes first"
        self._file.write(line)
        self._file.flush()

    def _count(self, start: int) -> None:
        """Count the lines after the first; what was cut off when a run was killed is dropped."""
        assert self._file is not None, "begin comes first"
        end = start
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            self.n_done += 1
            self.n_failed += json.loads(line)["error"] is not None
        self._file.truncate(end)


def file_digest(path: Path) -> str:
    """A short name for the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _difference(found: bytes, head: bytes) -> str:
    """Which settings differ."""
    try:
        before, now = json.loads(found)["batch"], json.loads(head)["batch"]
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "form"
    return ", ".join(names)


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OLMoInputError(f"another process writes {path}; wait for it, or choose another name") from None

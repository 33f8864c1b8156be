"""The files of a batch: answers grow in `OUT.part` and become `OUT`, in the order of the rows, when they are whole.

The first line of the part says what the answers are answers to, so that a run that was killed goes on, and answers of
another model or to other rows are never mixed in. Each other line is one row's, and says which. They may come in any
order.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from olmo.exceptions import OLMoInputError
from olmo.io import sync_to_disk
from olmo.serve.batch.rows import row_number

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class BatchOutput:
    """The answers of one batch, each row once.

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
        self._done = bytearray()  # a byte for each row up to the last that is done
        self._is_in_order = True
        self._head: dict[str, Any] | None = None
        self._file: IO[bytes] | None = None

    def open(self, fresh: bool = False) -> None:
        """Open the part and find out which rows are in it.

        Args:
            fresh: drop the answers that are there.

        Raises:
            OLMoInputError: another process writes it, or it is no part of a batch.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("a+b")
        _lock(self._file, self.part)
        self._file.seek(0)
        found = b"" if fresh else self._file.readline()
        if not found.endswith(b"\n"):  # nothing, or a first line that was cut off
            self._file.truncate(0)
            return
        try:
            self._head = dict(json.loads(found)["batch"])
        except (ValueError, KeyError, TypeError):
            raise OLMoInputError(
                f"{self.part} is not of a batch; move it away, choose another name, or drop it with --fresh"
            ) from None
        self._count(len(found))

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with answers that were made with other settings.

        Args:
            settings: some of the values that decide the answers.

        Raises:
            OLMoInputError: the answers that are there were made with others.
        """
        if self._head is None:
            return
        if names := [name for name in settings if self._head.get(name) != _as_read(settings[name])]:
            raise OLMoInputError(
                f"{self.part} holds answers of an earlier run, which differs in {', '.join(names)}; run that "
                "one again to go on with it, choose another name, or drop them with --fresh"
            )

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Note what decides the answers, or check that it is what it was.

        Args:
            settings: all of the values that decide the answers.

        Raises:
            OLMoInputError: the answers that are there were made with others.
        """
        if self._head is None:
            self._head = _as_read(dict(settings))
            self._append(json.dumps({"batch": self._head}, sort_keys=True).encode() + b"\n")
        self.check({**dict.fromkeys(self._head), **settings})

    def is_done(self, number: int) -> bool:
        """Whether a row has a line."""
        return number < len(self._done) and bool(self._done[number])

    def add(self, number: int, line: Mapping[str, Any]) -> bool:
        """Write a row's answer; it is in the file when this returns.

        Args:
            number: the row.
            line: its answer, with that number in it.

        Returns:
            Whether it was written; a row that has a line keeps it.
        """
        assert self._head is not None, "settle comes first"
        if self.is_done(number):
            return False
        self._append(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._note(number, line["error"] is not None)
        return True

    def finish(self) -> None:
        """Put the answers in place, all at once."""
        assert self._file is not None, "open comes first"
        saving = self.target.with_name(f".{self.target.name}.saving-{os.getpid()}")
        try:
            self._file.seek(0)
            self._file.readline()
            with saving.open("wb") as file:
                if self._is_in_order:
                    shutil.copyfileobj(self._file, file)
                else:
                    self._sort(file)
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
        assert self._file is not None, "open comes first"
        self._file.write(line)
        self._file.flush()

    def _note(self, number: int, is_failed: bool) -> None:
        self._is_in_order &= number >= len(self._done)
        self._done.extend(bytes(max(0, number + 1 - len(self._done))))
        self._done[number] = 1
        self.n_done += 1
        self.n_failed += is_failed

    def _count(self, start: int) -> None:
        """Note the lines after the first; what was cut off when a run was killed is dropped."""
        assert self._file is not None, "open comes first"
        end = start
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            value = json.loads(line)
            self._note(row_number(value), value["error"] is not None)
        self._file.truncate(end)

    def _sort(self, file: IO[bytes]) -> None:
        """Copy the lines in the order of their rows; eight bytes of memory a row."""
        assert self._file is not None, "open comes first"
        places, place = array("Q", bytes(8 * len(self._done))), self._file.tell()
        for line in self._file:
            places[row_number(json.loads(line))] = place
            place += len(line)
        for number, where in enumerate(places):
            if self._done[number]:
                self._file.seek(where)
                file.write(self._file.readline())


def _as_read(value: Any) -> Any:
    """A value as it comes back from a file."""
    return json.loads(json.dumps(value))


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OLMoInputError(f"another process writes {path}; wait for it, or choose another name") from None

"""Examples in a JSONL file: one JSON object a line, written by hand or by a script.

Opening reads the file once for the places of its lines (16 bytes a line are kept); a row is read and parsed when it is
asked for. Nothing stays open, so a source can be pickled and read from many threads and processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.row_source import RowSource
from olmo.data.written_rows import read_row, written_example
from olmo.exceptions import OLMoInputError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonlSource(RowSource):
    """The examples of a JSONL file; blank lines are passed over.

    Args:
        path: the file.
        name: what metrics call it; by default the file's name without suffix.
        image_root: folder that relative picture paths start from, by default that of the file; also where downloaded
            pictures lie.
        style: style of conversations that name none.

    Raises:
        OLMoInputError: no such file, or no rows in it.
    """

    def __init__(
        self, path: str | Path, name: str | None = None, image_root: Path | None = None, style: str | None = None
    ) -> None:
        self.path = Path(path)
        self.name, self.style = name or self.path.stem, style
        self._file = self.path.absolute()  # `path` is as it was given, for people
        self.root, self.downloads = image_root or self._file.parent, image_root
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise OLMoInputError(f"file {self.path} {what} (current folder: {Path.cwd()}); check the path")
        self._size = self.path.stat().st_size
        self._offsets, self._lines = _find_rows(self.path)
        if len(self._offsets) == 0:
            raise OLMoInputError(f"{self.path} has no rows; write one JSON object a line")
        self._refuse_list()

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, row: int) -> str:
        """File and line of the row, `train.jsonl:17`."""
        return f"{self.path}:{self._lines[row]}"

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        return written_example(read_row(self._line(row)), self.root, self.downloads, self.style)

    def _line(self, row: int) -> bytes:
        with self._file.open("rb") as file:
            size = file.seek(0, 2)
            if size != self._size:
                raise OLMoInputError(
                    f"the file has {size} bytes and had {self._size} when it was opened; start again, and let nothing "
                    "write to it meanwhile"
                )
            file.seek(self._offsets[row])
            return file.readline()

    def _refuse_list(self) -> None:
        first = self._line(0).removeprefix(_BYTE_ORDER_MARK).strip()
        if first.startswith(b"[") or first == b"{":
            what = "a JSON list" if first.startswith(b"[") else "one JSON object over many lines"
            command = f"jq -c {'.[]' if first.startswith(b'[') else '.'} {self.path} > rows.jsonl"
            raise OLMoInputError(f"{self.path} is {what}, but needs one object a line; turn it round with `{command}`")


def _find_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Byte offset and line number (from 1) of each line that is not blank, two int64 arrays of one length."""
    offsets, lines, offset = [], [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() not in (b"", _BYTE_ORDER_MARK):
                offsets.append(offset)
                lines.append(number)
            offset += len(line)
    return np.array(offsets, dtype=np.int64), np.array(lines, dtype=np.int64)

"""What a batch reads: JSONL, Parquet, a folder of such files, or a folder of pictures with one question for all.

Rows are counted once and found again by place, so that any process that sees the files can read its share of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.data.pictures import PICTURE_SUFFIXES
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

REQUEST_SUFFIXES = (".jsonl", ".parquet")
"""File names that hold requests in a folder; a file that is named itself may be called anything."""

_STEP = 64  # rows between two that the place is known of
_BLANK = b" \t\r\n\xef\xbb\xbf"
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp"))


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Rows that stand together in one file.

    Attributes:
        path: the file; empty where the chunk holds its rows itself.
        start: number of its first row, over all files from 0.
        stop: number after its last row.
        anchor: number of a row at or before `start`.
        place: where that one is: a byte of a JSONL file, a row of a Parquet file.
        wanted: numbers of those that are to be answered; None: all.
        lines: the rows, where no file has them.
    """

    path: str
    start: int
    stop: int
    anchor: int = 0
    place: int = 0
    wanted: tuple[int, ...] | None = None
    lines: tuple[str, ...] = ()

    def wants(self, number: int) -> bool:
        """Whether a row is to be answered."""
        return self.start <= number < self.stop and (self.wanted is None or number in self.wanted)


@dataclass
class _File:
    path: Path
    start: int
    n_rows: int = 0
    places: array[int] = field(default_factory=lambda: array("Q"))


class BatchSource:
    """The rows of a batch, counted.

    Args:
        path: JSONL or Parquet, or a folder.
        prompt: the question about each picture of a folder of pictures; None: the files hold requests.
        without: file of a folder that holds no requests: the answers.

    Attributes:
        base: folder that relative paths of rows start from.
        n_rows: rows in all.
        digest: a short name for what they are.

    Raises:
        OLMoInputError: no such file, nothing in the folder, or a prompt for what is no folder.
        OLMoConfigurationError: the package for Parquet is missing.
    """

    def __init__(self, path: Path, prompt: str | None = None, without: Path | None = None) -> None:
        path = path.absolute()
        self.base = path if path.is_dir() else path.parent
        self._files: list[_File] = []
        self._pictures: list[str] = []
        if prompt is not None:
            self._pictures, self.digest = _picture_rows(path, prompt)
            self.n_rows = len(self._pictures)
            return
        self.n_rows, digests = 0, []
        for one in request_files(path, without):
            file = _File(one, self.n_rows)
            digest = _scan_parquet(file) if _is_parquet(one) else _scan_jsonl(file)
            digests.append(digest if one == path else f"{one.name} {digest}")
            self._files.append(file)
            self.n_rows += file.n_rows
        self.digest = digests[0] if not path.is_dir() else _short_digest("\n".join(digests))

    def chunks(self, size: int, is_done: Callable[[int], bool] = lambda _: False) -> Iterator[Chunk]:
        """All rows in order, so many at a time.

        Args:
            size: rows of a chunk at most.
            is_done: whether a row, by its number, is passed over.
        """
        for start in range(0, len(self._pictures), size):
            lines = tuple(self._pictures[start : start + size])
            yield from _left(Chunk(path="", start=start, stop=start + len(lines), lines=lines), is_done)
        for file in self._files:
            for start in range(file.start, file.start + file.n_rows, size):
                stop = min(start + size, file.start + file.n_rows)
                mark = (start - file.start) // _STEP
                anchor, place = (file.start + mark * _STEP, file.places[mark]) if file.places else (file.start, 0)
                yield from _left(
                    Chunk(path=str(file.path), start=start, stop=stop, anchor=anchor, place=place), is_done
                )


class RowReader:
    """Reads chunks; those that follow one another in a Parquet file are read in one go."""

    def __init__(self) -> None:
        self._path, self._number = "", 0
        self._rows: Iterator[bytes] = iter(())

    def lines(self, chunk: Chunk) -> Iterator[tuple[int, bytes]]:
        """Number and line of each row that the chunk wants.

        Raises:
            OLMoInputError: the rows are not where they were counted.
        """
        if chunk.lines:
            found = enumerate((line.encode("utf-8", "surrogatepass") for line in chunk.lines), chunk.start)
            yield from (row for row in found if chunk.wants(row[0]))
            return
        number = chunk.start
        try:
            for number, line in self._from(chunk):
                if chunk.wants(number):
                    yield number, line
                if number + 1 == chunk.stop:
                    return
        except OSError as error:
            raise OLMoInputError(
                f"cannot read {chunk.path} ({error.strerror or error}); each process of a batch needs it there"
            ) from None
        raise OLMoInputError(f"{chunk.path} ends before row {chunk.stop - 1}; it was changed, so run the batch again")

    def _from(self, chunk: Chunk) -> Iterator[tuple[int, bytes]]:
        if not _is_parquet(Path(chunk.path)):
            with Path(chunk.path).open("rb") as file:
                file.seek(chunk.place)
                yield from enumerate((line for line in file if line.strip(_BLANK)), chunk.anchor)
            return
        if (self._path, self._number) != (chunk.path, chunk.start):
            n_passed, self._rows = _parquet_rows(chunk.path, chunk.start - chunk.anchor)
            self._path, self._number = chunk.path, chunk.anchor + n_passed
        for line in self._rows:
            self._number += 1
            yield self._number - 1, line


def request_files(path: Path, without: Path | None = None) -> list[Path]:
    """The files of requests that a path names, by name.

    Args:
        path: a file, or a folder of them.
        without: one that is left out.

    Raises:
        OLMoInputError: there is none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise OLMoInputError(f"there is no file {path} (current folder: {Path.cwd()}); check the path")
        return [path]
    left_out = None if without is None else without.absolute()
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in REQUEST_SUFFIXES and p.is_file() and p != left_out)
    if not files:
        raise OLMoInputError(
            f"folder {path} holds no requests; looked for {', '.join(REQUEST_SUFFIXES)}. Where its pictures are meant, "
            "say what is asked about each with --prompt"
        )
    return files


def _left(chunk: Chunk, is_done: Callable[[int], bool]) -> Iterator[Chunk]:
    """The chunk without rows that are done; nothing where all are."""
    numbers = range(chunk.start, chunk.stop)
    wanted = tuple(number for number in numbers if not is_done(number))
    if len(wanted) == len(numbers):
        yield chunk
    elif wanted:
        yield Chunk(**{**vars(chunk), "wanted": wanted})


def picture_names(folder: Path) -> list[str]:
    """The pictures right in a folder, in order.

    Args:
        folder: the folder.

    Raises:
        OLMoInputError: it is none, or there are none.
    """
    if not folder.is_dir():
        raise OLMoInputError(f"--prompt is asked about each picture of a folder, and {folder} is not a folder")
    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
    if not names:
        raise OLMoInputError(f"folder {folder} holds no pictures; looked for {', '.join(PICTURE_SUFFIXES)}")
    return names


def _picture_rows(folder: Path, prompt: str) -> tuple[list[str], str]:
    """A request for each picture right in a folder, and the digest of all."""
    names = picture_names(folder)
    rows = [json.dumps({"id": name, "prompt": prompt, "image": str(folder / name)}) for name in names]
    told = [json.dumps({"id": name, "prompt": prompt}) for name in names]  # wherever the folder lies
    return rows, _short_digest("\n".join(told))


def _scan_jsonl(file: _File) -> str:
    """Count the rows, note places, and hash what is there."""
    digest, place = hashlib.sha256(), 0
    with file.path.open("rb") as opened:
        for line in opened:
            digest.update(line)
            if line.strip(_BLANK):
                if file.n_rows % _STEP == 0:
                    file.places.append(place)
                file.n_rows += 1
            place += len(line)
    return digest.hexdigest()[:16]


def _scan_parquet(file: _File) -> str:
    with _parquet_file(str(file.path)) as opened:
        file.n_rows = opened.metadata.num_rows
    with file.path.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()[:16]


def _parquet_rows(path: str, start: int) -> tuple[int, Iterator[bytes]]:
    """How many rows are passed over, whole row groups before the wanted row, and the lines of those that follow."""
    with _parquet_file(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    n_passed = first = 0
    while first < len(sizes) and n_passed + sizes[first] <= start:
        n_passed += sizes[first]
        first += 1
    return n_passed, _lines_of_groups(path, range(first, len(sizes)))


def _lines_of_groups(path: str, groups: range) -> Iterator[bytes]:
    """Rows as lines of JSON."""
    with _parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=_STEP, row_groups=list(groups)):
            for row in batch.to_pylist():
                yield json.dumps(_plain(row), default=str).encode()


def _parquet_file(path: str) -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise OLMoConfigurationError("Parquet needs pyarrow: pip install 'molmo[data]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise OLMoInputError(f"{path} cannot be read as Parquet: {error}"[:300]) from None


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: what is empty is left out, bytes and pictures become `data:` addresses."""
    if isinstance(value, bytes):
        kind = next((kind for magic, kind in _MAGIC if value.startswith(magic)), "image/unknown")
        return f"data:{kind};base64,{base64.b64encode(value).decode()}"
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"bytes", "path"}:  # a picture of a Hugging Face dataset
        return value["path"] if value["bytes"] is None else _plain(value["bytes"])
    return {name: _plain(one) for name, one in value.items() if one is not None}


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

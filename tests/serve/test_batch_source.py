"""Rows of a batch: JSONL, Parquet, folders, and any part of them found again by place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from local_server import picture_bytes

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.serve.batch.source import BatchSource, Chunk, RowReader


def jsonl(path: Path, n: int, first: int = 0) -> Path:
    """Rows with blank lines between some, and no end of line at the last."""
    lines = [
        json.dumps({"id": first + i, "prompt": "x" * (i % 7)}) + ("\n \n" if i % 5 == 0 else "\n") for i in range(n)
    ]
    path.write_text("\n" + "".join(lines).rstrip("\n"))
    return path


def table(path: Path, rows: list[dict[str, Any]], group: int = 10) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def read(source: BatchSource, size: int, **options: Any) -> list[tuple[int, Any]]:
    """All rows of all chunks, each chunk by a reader of its own and after a way through JSON."""
    chunks = [Chunk(**json.loads(json.dumps(vars(chunk)))) for chunk in source.chunks(size, **options)]
    return [(number, json.loads(line)) for chunk in chunks for number, line in RowReader().lines(chunk)]


@pytest.mark.parametrize("size", [1, 50, 64, 100, 1000])
def test_each_row_is_found_by_its_place(tmp_path: Path, size: int) -> None:
    source = BatchSource(jsonl(tmp_path / "in.jsonl", 200))
    assert source.n_rows == 200 and source.base == tmp_path
    assert [(number, row["id"]) for number, row in read(source, size)] == [(i, i) for i in range(200)]
    done = {*range(20, 130), 150}
    left = [number for number, _ in read(source, size, is_done=done.__contains__)]
    assert left == [i for i in range(200) if i not in done]


@pytest.mark.parametrize("size", [3, 10, 64])
def test_parquet_is_read_from_the_middle(tmp_path: Path, size: int) -> None:
    source = BatchSource(table(tmp_path / "in.parquet", [{"id": i, "prompt": f"q {i}"} for i in range(95)]))
    wanted = [(i, {"id": i, "prompt": f"q {i}"}) for i in range(95)]
    assert source.n_rows == 95 and read(source, size) == wanted
    one = RowReader()
    assert [number for chunk in source.chunks(size) for number, _ in one.lines(chunk)] == list(range(95))


def test_what_a_table_cannot_leave_out_is_left_out_and_pictures_are_addresses(tmp_path: Path) -> None:
    data = picture_bytes(8, 6)
    rows = [
        {"prompt": "a", "image": {"bytes": data, "path": None}, "images": None, "max_tokens": 3},
        {"prompt": "b", "image": {"bytes": None, "path": "p.png"}, "images": [data], "max_tokens": None},
    ]
    (_, first), (_, second) = read(BatchSource(table(tmp_path / "in.parquet", rows)), 2)
    assert first.keys() == {"prompt", "image", "max_tokens"} and first["image"].startswith("data:image/png;base64,")
    assert second == {"prompt": "b", "image": "p.png", "images": [first["image"]]}


def test_a_folder_is_its_files_by_name(tmp_path: Path) -> None:
    table(tmp_path / "b.parquet", [{"id": i, "prompt": "q"} for i in range(10, 40)])
    jsonl(tmp_path / "c.jsonl", 5, first=40)
    jsonl(tmp_path / "a.jsonl", 10)
    jsonl(tmp_path / "out.jsonl", 3)
    (tmp_path / "notes.txt").write_text("none")
    source = BatchSource(tmp_path, without=tmp_path / "out.jsonl")
    assert source.base == tmp_path and source.n_rows == 45
    assert [(number, row["id"]) for number, row in read(source, 7)] == [(i, i) for i in range(45)]
    assert BatchSource(tmp_path).digest != source.digest, "another file is another batch"


def test_a_folder_of_pictures_with_one_question(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.txt"):
        (tmp_path / name).write_bytes(picture_bytes(8, 6))
    source = BatchSource(tmp_path, "What is it?")
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.png")]
    found = read(source, 1)
    assert [row["image"] for _, row in found] == paths and {row["prompt"] for _, row in found} == {"What is it?"}
    assert [row["id"] for _, row in found] == ["a.jpg", "b.png"]
    assert BatchSource(tmp_path, "What?").digest != source.digest == BatchSource(tmp_path, "What is it?").digest


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = BatchSource(jsonl(tmp_path / "a.jsonl", 9)).digest
    assert BatchSource(jsonl(tmp_path / "b.jsonl", 9)).digest == first
    assert BatchSource(jsonl(tmp_path / "a.jsonl", 8)).digest != first


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OLMoInputError, match="there is no file"):
        BatchSource(tmp_path / "none.jsonl")
    with pytest.raises(OLMoInputError, match=r"holds no requests; .*--prompt"):
        BatchSource(tmp_path)
    with pytest.raises(OLMoInputError, match="holds no pictures"):
        BatchSource(tmp_path, "What?")
    path = jsonl(tmp_path / "a.jsonl", 100)
    with pytest.raises(OLMoInputError, match="is not a folder"):
        BatchSource(path, "What?")
    *_, last = BatchSource(path).chunks(10)
    jsonl(path, 95)
    with pytest.raises(OLMoInputError, match="ends before row 99; it was changed"):
        list(RowReader().lines(last))
    path.unlink()
    with pytest.raises(OLMoInputError, match=r"cannot read .*needs it there"):
        list(RowReader().lines(last))
    (tmp_path / "a.parquet").write_bytes(b"no table")
    with pytest.raises(OLMoInputError, match="cannot be read as Parquet"):
        BatchSource(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(OLMoConfigurationError, match=r"pip install 'molmo\[data\]'"):
        BatchSource(tmp_path / "a.parquet")

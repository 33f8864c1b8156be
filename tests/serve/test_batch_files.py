"""Answers that come in any order: each row once, in order at the end, also after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olmo.exceptions import OLMoInputError
from olmo.serve.batch.files import BatchOutput

SETTINGS = {"rows": "abc", "weights": "def", "more": {"a": (1, 2)}}


def line(number: int, is_openai: bool = False, **more: Any) -> dict[str, Any]:
    named = {"id": f"batch_req_{number}", "custom_id": "x"} if is_openai else {"row": number, "id": "batch_req_0"}
    return {**named, "error": None, **more}


def begun(target: Path) -> BatchOutput:
    output = BatchOutput(target)
    output.open()
    output.settle(SETTINGS)
    return output


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_lines_stand_in_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    lines = [line(i, is_openai=i % 3 == 0, text="é" * i) for i in range(40)]
    output = begun(tmp_path / "out.jsonl")
    for number in sorted(range(40), key=lambda i: (i * 17) % 40):
        assert output.add(number, lines[number])
    assert output.n_done == 40
    output.finish()
    assert lines_of(tmp_path / "out.jsonl") == lines
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_row_is_written_once(tmp_path: Path) -> None:
    output = begun(tmp_path / "out.jsonl")
    assert output.add(1, line(1, text="first")) and not output.add(1, line(1, text="second"))
    assert output.add(0, line(0, text="zero")) and output.n_done == 2
    assert output.is_done(0) and output.is_done(1) and not output.is_done(2)
    output.finish()
    assert [found["text"] for found in lines_of(tmp_path / "out.jsonl")] == ["zero", "first"]


def test_after_a_stop_the_rows_that_are_there_are_known(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    output = begun(target)
    for number in (5, 2, 7):
        output.add(number, line(number, error={"code": "x"} if number == 2 else None))
    output.close()
    with (tmp_path / "out.jsonl.part").open("ab") as file:
        file.write(b'{"row": 3, "te')
    again = BatchOutput(target)
    again.open()
    assert [number for number in range(10) if again.is_done(number)] == [2, 5, 7]
    assert (again.n_done, again.n_failed) == (3, 1)
    again.settle(SETTINGS)
    assert not again.add(5, line(5)) and again.add(3, line(3))
    again.finish()
    assert [found["row"] for found in lines_of(target)] == [2, 3, 5, 7]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    begun(tmp_path / "out.jsonl").close()
    output = BatchOutput(tmp_path / "out.jsonl")
    output.open()
    output.check({"rows": "abc"})
    output.settle(SETTINGS)
    for wrong, name in (({"rows": "other"}, "rows"), ({"weights": "x", "rows": "abc"}, "weights")):
        with pytest.raises(OLMoInputError, match=f"differs in {name};"):
            output.check(wrong)
    with pytest.raises(OLMoInputError, match="differs in more, weights;"):
        output.settle({"rows": "abc"})
    with pytest.raises(OLMoInputError, match="differs in version;"):
        output.settle({**SETTINGS, "version": 2})
    output.close()


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / "out.jsonl.part"
    part.write_text("my notes\n")
    output = BatchOutput(tmp_path / "out.jsonl")
    with pytest.raises(OLMoInputError, match="is not of a batch"):
        output.open()
    output.close()
    assert part.read_text() == "my notes\n"

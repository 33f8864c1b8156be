from __future__ import annotations

from olmo.data.check import BadRow, check_rows
from olmo.data.jsonl import JsonlSource
from olmo.data.source import SourceConfig, open_source
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.example_check import check_example


def look(example):
    if "answer" not in example:
        raise OLMoInputError("no answer")
    return [example.get("style")]


def test_rows_are_counted_and_bad_ones_named(write_rows):
    good, styled = '{"question": "a", "answer": "b"}', '{"question": "a", "answer": "b", "style": "x"}'
    path = write_rows(good, '{"question": "c"}', "", "{", styled, good)
    seen = []
    report = check_rows(JsonlSource(path), look, on_row=lambda r: seen.append((r.n_rows, len(r.bad))))
    assert report.bad[0] == BadRow(f"{path}:2", "no answer")
    assert report.bad[1].place == f"{path}:4" and report.bad[1].reason.startswith("not JSON")
    assert (report.n_rows, report.n_conversations, report.n_repeated) == (5, 3, 1)
    assert report.styles == {"none": 2, "x": 1}
    assert seen == [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert check_rows(JsonlSource(path), look, limit=2).n_rows == 2


def test_a_file_that_vanishes_is_a_bad_row(write_rows):
    path = write_rows('{"question": "a", "answer": "b"}')
    source = JsonlSource(path)
    path.unlink()
    assert "No such file" in check_rows(source, look).bad[0].reason


def test_rows_with_decoded_pictures_are_not_compared():
    rows = open_source(SourceConfig(kind="scenes", limit=2, scenes={"image_size": 64}))
    report = check_rows(rows, check_example)
    assert (report.n_rows, report.bad, report.n_repeated) == (2, [], 0)

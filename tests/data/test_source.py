from __future__ import annotations

import pickle

import pytest

from olmo.data.row_source import RowSource
from olmo.data.source import Source, SourceConfig, open_source
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.messages import parse_example


def lines(n: int) -> list[str]:
    return [f'{{"question": "{i}", "answer": "x"}}' for i in range(n)]


def questions(source: Source) -> list[str]:
    return [source[i]["question"] for i in range(len(source))]


def test_scenes():
    source = open_source(SourceConfig(kind="scenes", split="val", limit=2, scenes={"image_size": 96}))
    assert len(source) == 2 and source.place(1) == "scenes, row 1"
    example = source.at(1, epoch=3)
    assert parse_example(example).conversations[0].has_target
    assert example["metadata"]["source"] == "scenes" and example["metadata"]["row"] == 1
    assert example["metadata"]["seed"] == 1_000_000_008 and example["image"].size == (96, 96)
    assert len(open_source(SourceConfig(kind="scenes"))) == 1_000_000_000


def test_a_part_keeps_the_places_of_the_whole(write_rows):
    path = write_rows(*lines(10))
    values = {"kind": "jsonl", "path": str(path)}
    head = open_source(SourceConfig(**values, limit=3))
    tail = open_source(SourceConfig(**values, skip=3, limit=100))
    assert questions(head) + questions(tail) == [str(i) for i in range(10)]
    assert tail.place(0) == f"{path}:4" and tail[0]["metadata"]["row"] == 3
    with pytest.raises(IndexError):
        head[3]
    with pytest.raises(OLMoInputError, match="has 10 rows, so skip=10 leaves none"):
        open_source(SourceConfig(**values, skip=10))


def test_weights_multiply(write_rows):
    path = write_rows(
        lines(1)[0], '{"question": "a", "answer": "b", "weight": 0.5}', '{"question": "a", "weight": "x"}'
    )
    source = open_source(SourceConfig(kind="jsonl", path=str(path), weight=4, limit=3, name="mine"))
    assert [source[i].get("weight") for i in range(3)] == [4.0, 2.0, "x"]
    assert source.name == "mine" and source.place(2) == f"{path}:3" and len(source) == 3
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    with pytest.raises(OLMoInputError, match="'weight' is a number"):
        parse_example(source[2])


def test_paths_start_at_the_recipe_then_at_the_working_directory(write_rows, tmp_path, monkeypatch):
    path = write_rows(*lines(1))
    config = SourceConfig(kind="jsonl", path="rows.jsonl")
    assert open_source(config, tmp_path).place(0) == f"{path}:1"
    monkeypatch.chdir(tmp_path)
    there = open_source(config, tmp_path / "elsewhere")
    assert there.place(0) == "rows.jsonl:1", "as the person wrote it"
    monkeypatch.chdir("/")
    assert there[0]["answer"] == "x", "found from anywhere"
    with pytest.raises(OLMoInputError, match=r"rows\.jsonl does not exist"):
        open_source(config, tmp_path / "elsewhere")
    with pytest.raises(OLMoInputError, match="image_root 'no' is not a folder"):
        open_source(SourceConfig(kind="jsonl", path=str(path), image_root="no"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "jsonl"}, "path: is required with kind: jsonl"),
        ({"kind": "tar", "path": "x"}, "'tar' is not one of 'jsonl'"),
        ({"kind": "jsonl", "path": "x", "scenes": {}}, "scenes: goes with kind: scenes, and this is jsonl"),
        ({"kind": "scenes", "path": "x"}, "path: scenes are drawn, not read"),
        ({"kind": "hub", "path": "x"}, "either 'fields'"),
        ({"kind": "hub", "fields": "pixmo"}, "fields: 'pixmo' is not one of ai2d"),
        ({"kind": "hub", "fields": "pixmo_cap", "columns": {"image": "a"}}, "either 'fields'"),
        ({"kind": "hub", "columns": {"question": "q"}}, "path: is required with 'columns'"),
        ({"kind": "hub", "path": "x", "columns": {"picture": "q"}}, "columns: 'picture' is not one of image"),
        ({"kind": "hub", "path": "x", "columns": {"image": "q"}}, "names no column with text"),
        ({"kind": "hub", "path": "x", "columns": {"image": "a", "images": "b", "answer": "c"}}, "not both"),
        ({"kind": "hub", "path": "x", "columns": {"answer": "c"}, "group_size": 3}, "group_size: goes with 'fields'"),
        ({"kind": "hub", "fields": "pixmo_points", "point_scale": 3}, "point_scale: goes with 'columns'"),
        ({"kind": "hub", "fields": "pixmo_cap_with_transcripts", "style": "x"}, "style: .* several styles"),
        ({"kind": "jsonl", "path": "x", "limit": 0}, "limit: must be 1 or more, got 0"),
        ({"kind": "jsonl", "path": "x", "rate": float("inf")}, "rate: must be 0 or more"),
        ({"kind": "jsonl", "path": "x", "pth": "y"}, "did you mean 'path'"),
    ],
)
def test_configurations_that_are_wrong(values, message):
    with pytest.raises(OLMoConfigurationError, match=message):
        SourceConfig.new(**values)


class Toy(RowSource):
    name = "toy"

    def __len__(self):
        return 2

    def _example(self, row, epoch):
        if row:
            raise OLMoInputError("it is broken")
        return {"question": str(epoch), "metadata": {"id": 5}}


def test_what_a_source_of_ones_own_gets():
    source: Source = Toy()
    assert source.at(0, 4) == {"question": "4", "metadata": {"id": 5, "source": "toy", "row": 0}}
    assert source[0]["question"] == "0"
    with pytest.raises(OLMoInputError, match=r"^toy, row 1: it is broken$"):
        source[1]

"""Small files in the layout of the published datasets: same columns, same nesting."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from olmo.data.field_maps import FIELD_MAPS
from olmo.data.hub_dataset import load_rows
from olmo.data.pictures import downloaded_file
from olmo.data.source import SourceConfig, open_source
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.messages import parse_example

datasets = pytest.importorskip("datasets")
URL = "https://example.org/{}.jpg"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path, make_picture):
    """Writes rows as parquet; an `image` of None becomes a picture."""

    def to_parquet(rows: list[dict], **features) -> Path:
        for i, row in enumerate(rows):
            if "image" in row and row["image"] is None:
                row["image"] = {"bytes": make_picture(i), "path": None}
        path = tmp_path / "rows.parquet"
        whole = datasets.Dataset.from_list(rows)
        for column, feature in {**({"image": datasets.Image()} if "image" in rows[0] else {}), **features}.items():
            whole = whole.cast_column(column, feature)
        whole.to_parquet(str(path))
        return path

    return to_parquet


@pytest.fixture
def downloads(tmp_path, make_picture):
    """A folder with the pictures 0, 1 and 2."""
    folder = tmp_path / "downloads"
    for i in range(3):
        file = downloaded_file(URL.format(i), folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_picture(i))
    return folder


def opened(path, **values):
    return open_source(SourceConfig(kind="hub", path=str(path), **{k: v for k, v in values.items() if v is not None}))


def vqa_answers(*texts: str) -> list[dict]:
    return [{"answer": t, "answer_confidence": "yes", "answer_id": i} for i, t in enumerate(texts)]


def test_captions_with_one_transcript_of_several(write, downloads):
    rows = [
        {"image_url": URL.format(i), "caption": f"c{i}", "transcripts": [f"t{i}{k}" for k in "abc"]} for i in (0, 9, 1)
    ]
    path = write(rows)
    source = opened(path, fields="pixmo_cap_with_transcripts", image_root=str(downloads))
    assert (len(source), source.n_missing, source.name) == (2, 1, "pixmo_cap_with_transcripts")
    caption, transcript = source[1]["message_list"]
    assert caption == {"style": "long_caption", "answer": "c1"}
    assert transcript["style"] == "transcript" and transcript["answer"] in rows[2]["transcripts"]
    assert source[1]["image"] == str(downloaded_file(URL.format(1), downloads))
    assert source[1]["metadata"] == {"image_url": URL.format(1), "source": source.name, "row": 1}
    drawn = {source.at(1, epoch)["message_list"][1]["answer"] for epoch in range(30)}
    assert drawn == set(rows[2]["transcripts"]), "passes differ"
    assert source.at(1, 7) == source.at(1, 7), "a pass does not"
    parsed = parse_example(source[0])
    assert [c.style for c in parsed.conversations] == ["long_caption", "transcript"]
    only = opened(path, fields="pixmo_cap", image_root=str(downloads))[0]
    assert only["answer"] == "c0" and only["style"] == "long_caption" and "message_list" not in only


def test_a_caption_without_transcripts_stays_alone(write, downloads):
    rows = [{"image_url": URL.format(0), "caption": "c", "transcripts": ["x"]}]
    rows.append({"image_url": URL.format(1), "caption": "d", "transcripts": []})
    source = opened(write(rows), fields="pixmo_cap_with_transcripts", image_root=str(downloads))
    assert source[1]["answer"] == "d" and "message_list" not in source[1]


def points_rows() -> list[dict]:
    def row(i, label, points, method):
        xy = [{"x": x, "y": y} for x, y in points]
        return {
            **{"image_url": URL.format(i), "image_sha256": "0" * 64, "points": xy},
            **{"count": len(xy), "label": label, "collection_method": method},
        }

    return [
        row(0, "cats", [(10, 20), (50, 60)], "pointing"),
        row(1, "dogs", [(1, 2)], "counting"),
        row(0, "cars", [], "pointing"),
        row(0, "hats", [(5, 5)], "pointing"),
    ]


def test_points_of_one_picture_are_one_example(write, downloads):
    path = write(points_rows())
    source = opened(path, fields="pixmo_points", image_root=str(downloads))
    assert len(source) == 2
    assert [c["label"] for c in source[0]["message_list"]] == ["cats", "cars", "hats"]
    assert source[0]["message_list"][0] == {
        **{"style": "pointing", "label": "cats"},
        **{"points": [(10.0, 20.0), (50.0, 60.0)], "point_scale": 100.0},
    }
    assert parse_example(source[0]).conversations[1].points == (), "nothing to point at is an answer too"
    assert source[0]["metadata"]["image_url"] == [URL.format(0)] * 3
    pairs = opened(path, fields="pixmo_points", image_root=str(downloads), group_size=2)
    assert [len(e.get("message_list", [1])) for e in pairs] == [2, 1, 1]
    assert len(opened(path, fields="pixmo_points", image_root=str(downloads), group_size=1)) == 4


def test_rows_are_chosen_by_column_and_by_picture(write, downloads, tmp_path):
    path = write(points_rows())
    where = {"collection_method": "counting"}
    counting = opened(path, fields="pixmo_points", image_root=str(downloads), where=where, style="point_count")
    assert len(counting) == 1 and counting[0]["label"] == "dogs" and counting[0]["style"] == "point_count"
    (tmp_path / "held_out.txt").write_text(URL.format(0) + "\n\n")
    rest = opened(path, fields="pixmo_points", image_root=str(downloads), exclude=str(tmp_path / "held_out.txt"))
    assert [e["label"] for e in rest] == ["dogs"]
    with pytest.raises(OLMoInputError, match="none of its 4 rows is left"):
        opened(path, fields="pixmo_points", image_root=str(downloads), where={"collection_method": "no"})
    with pytest.raises(OLMoInputError, match="list of pictures to exclude"):
        opened(path, fields="pixmo_points", image_root=str(downloads), exclude="no.txt")


def test_null_points_are_an_error_that_names_the_row(write, downloads):
    rows = points_rows()[:2]
    rows[1]["points"] = [{"x": 3.0, "y": None}]
    source = opened(write(rows), fields="pixmo_points", image_root=str(downloads))
    with pytest.raises(OLMoInputError, match=r"pixmo_points, row 1: column 'points' holds points with x and y, none"):
        source[1]


def test_counts_have_points_in_pixels_as_lists(write, downloads):
    rows = [{"image_url": URL.format(0), "image_sha256": "0", "count": 2, "label": "cats"} for _ in range(2)]
    rows[0]["points"], rows[1]["points"] = {"x": [3.0, 4.0], "y": [5.0, 6.0]}, None
    source = opened(write(rows), fields="pixmo_count", image_root=str(downloads))
    assert source[0]["points"] == [(3.0, 5.0), (4.0, 6.0)] and "point_scale" not in source[0]
    assert source[0]["style"] == "point_count" and source[0]["metadata"]["count"] == 2
    assert parse_example(source[0]).conversations[0].point_scale is None
    assert "points" not in source[1], "test splits have a count alone"
    assert not parse_example(source[1]).conversations[0].has_target


def test_ask_model_anything(write, downloads):
    rows = [{"image_url": URL.format(0), "image_sha256": "0", "question": f"q{i}", "answer": f"a{i}"} for i in range(2)]
    source = opened(write(rows), fields="pixmo_ask_model_anything", image_root=str(downloads))
    assert source[0]["message_list"][1] == {"style": "user_qa", "question": "q1", "answer": "a1"}


def test_vqa2_groups_questions_and_takes_the_common_answer(write, make_picture):
    rows = [
        {
            **{"question_type": "what", "multiple_choice_answer": "down", "answer_type": "other", "image": None},
            **{"answers": vqa_answers("down", "down", "up"), "image_id": i // 2, "question_id": i, "question": f"q{i}"},
        }
        for i in range(3)
    ]
    path = write(rows)
    source = opened(path, fields="vqa2")
    assert len(source) == 2
    assert source[0]["image"] == make_picture(0), "bytes as they are stored"
    assert source[0]["message_list"][1] == {"style": "vqa2", "question": "q1", "answers": ["down", "down", "up"]}
    alone = opened(path, fields="vqa2", group_size=1)
    assert len(alone) == 3 and alone[2]["metadata"]["question_id"] == 2
    assert parse_example(alone[2]).conversations[0].answers == ("down", "down", "up")


def test_chart_qa_weighs_both_parts_alike(write):
    kinds = datasets.ClassLabel(names=["human", "machine"])
    rows = [{"image": None, "query": "How many?", "label": ["14"], "human_or_machine": k} for k in (0, 1)]
    source = opened(write(rows, human_or_machine=kinds), fields="chart_qa", weight=0.5)
    human, machine = source
    assert human["answers"] == ["14"] and human["style"] == "chart_qa"
    assert human["weight"] / machine["weight"] == pytest.approx(20_901 / 7_398)
    assert 7_398 * human["weight"] + 20_901 * machine["weight"] == pytest.approx(
        0.5 * 28_299 * 2 * 2 * 7_398 * 20_901 / 28_299**2
    )
    weights = FIELD_MAPS["chart_qa"].weight_of[1]
    assert 7_398 * weights[0] == pytest.approx(20_901 * weights[1])


@pytest.mark.parametrize(("fields", "identifier"), [("doc_qa", "questionId"), ("text_vqa", "question_id")])
def test_documents_and_scene_text(write, fields, identifier):
    rows = [{"image": None, identifier: "7", "image_id": "x", "question": "What?", "answers": ["a", "b"]} for _ in "ab"]
    rows[1]["answers"] = None
    source = opened(write(rows), fields=fields)
    assert source[0]["answers"] == ["a", "b"] and source[0]["style"] == fields
    assert source[0]["metadata"][identifier] == "7"
    assert "answers" not in source[1]


def test_diagrams_have_choices(write):
    rows = [{"image": None, "question": "Which?", "options": ["a", "b", "c"], "answer": a} for a in ("2", "C", "-1")]
    source = opened(write(rows), fields="ai2d")
    assert [e.get("answer_idx") for e in source] == [2, 2, None]
    assert parse_example(source[0]).conversations[0].options == ("a", "b", "c")


def test_own_columns(write, tmp_path, make_picture):
    (tmp_path / "x.png").write_bytes(make_picture())
    path = write([{"img": "x.png", "q": "What?", "a": "Noise.", "w": 2.0}])
    source = opened(path, columns={"image": "img", "question": "q", "answer": "a", "weight": "w"}, style="demo")
    example = source[0]
    assert example["image"] == str(tmp_path / "x.png") and example["weight"] == 2.0 and source.name == "rows"
    assert parse_example(example).conversations[0].style == "demo"
    path = write([{"label": "cats", "xy": [[10.0, 20.0]]}])
    points = opened(path, columns={"label": "label", "points": "xy"}, point_scale=100)[0]
    assert points["points"] == [(10.0, 20.0)] and points["style"] == "pointing" and points["point_scale"] == 100
    path = write([{"chat": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}])
    assert parse_example(opened(path, columns={"messages": "chat"})[0]).conversations[0].messages[1].text == "Yo"


def test_a_column_of_several_pictures(write, make_picture):
    pictures = [{"bytes": make_picture(i), "path": None} for i in range(2)]
    path = write([{"photos": pictures, "q": "Same?", "a": "No."}], photos=datasets.List(datasets.Image()))
    source = opened(path, columns={"images": "photos", "question": "q", "answer": "a"})
    assert source[0]["images"] == [make_picture(0), make_picture(1)]


def test_a_missing_column_and_a_picture_that_is_null(write):
    path = write([{"image": None, "question": "a", "answer": "b"}])
    with pytest.raises(OLMoConfigurationError, match=r"no column 'answers'; did you mean 'answer'"):
        opened(path, fields="doc_qa")
    path = write([{"picture": "", "question": "a", "answer": "b"}])
    source = opened(path, columns={"image": "picture", "question": "question", "answer": "answer"})
    with pytest.raises(OLMoInputError, match="rows, row 0: the path of the picture is empty"):
        source[0]


def test_nothing_downloaded_yet(write, downloads):
    rows = [{"image_url": URL.format(8), "caption": "c", "transcripts": ["t"]}]
    with pytest.raises(OLMoInputError, match="none of the pictures of its 1 rows is on this machine"):
        opened(write(rows), fields="pixmo_cap")


def test_folders_and_other_files(write, tmp_path):
    rows = [{"image": None, "question": "a", "answers": ["b"]}]
    path = write(rows)
    whole = datasets.load_dataset("parquet", data_files=str(path), split="train")
    datasets.DatasetDict(test=whole).save_to_disk(str(tmp_path / "dict"))
    whole.save_to_disk(str(tmp_path / "single"))
    (tmp_path / "repository" / "data").mkdir(parents=True)
    (tmp_path / "repository" / "data" / "test-00000-of-00001.parquet").write_bytes(path.read_bytes())
    for folder in ("dict", "single", "repository"):
        assert opened(tmp_path / folder, fields="text_vqa", split="test")[0]["answers"] == ["b"], folder
    with pytest.raises(OLMoInputError, match="no split 'train'; it has test"):
        opened(tmp_path / "dict", fields="text_vqa")
    with pytest.raises(OLMoInputError, match="cannot read split 'val'"):
        opened(tmp_path / "repository", fields="text_vqa", split="val")
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n')
    assert opened(tmp_path / "rows.jsonl", columns={"question": "q", "answer": "a"})[0]["answer"] == "b"
    with pytest.raises(OLMoInputError, match="none of the suffixes"):
        load_rows(str(Path(__file__)))
    with pytest.raises(OLMoInputError, match="no such file or folder"):
        load_rows("./nowhere/rows.parquet")
    (tmp_path / "rows.parquet").write_bytes(b"not parquet")
    with pytest.raises(OLMoInputError, match="cannot read split"):
        load_rows(str(tmp_path / "rows.parquet"))


def test_a_source_travels_to_another_process(write):
    source = opened(write([{"image": None, "question": str(i), "answers": ["b"]} for i in range(5)]), fields="text_vqa")
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_the_package_is_optional(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(OLMoConfigurationError, match=r"pip install 'molmo\[data\]'"):
        load_rows("owner/name")

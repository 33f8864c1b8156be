"""Videos on their way from files to examples: JSONL, folders, and datasets in the layouts of the published ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from small_clips import write_clip, write_subtitles

from olmo.data.field_maps import FIELD_MAPS
from olmo.data.folder import FolderSource
from olmo.data.jsonl import JsonlSource
from olmo.data.shown import has_video
from olmo.data.source import Source, open_source
from olmo.data.source_config import SourceConfig
from olmo.data.videos import VideoFolder, find_video
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.example_check import check_example
from olmo.preprocessing.messages import parse_example

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def parsed(example: dict[str, Any]):
    return parse_example(example, takes_video=True)


def test_every_written_form_of_a_video_is_an_example(write_rows, tmp_path):
    clip = write_clip(tmp_path / "clips" / "a.gif")
    write_subtitles(tmp_path / "a.srt", "hello")
    talk = [{"from": "human", "value": "<video>\nWhat moves?"}, {"from": "gpt", "value": "A square."}]
    parts = [{"type": "video", "video": "clips/a.gif"}, {"type": "text", "text": "What moves?"}]
    forms = [
        {"video": "clips/a.gif", "question": "What moves?", "answer": "A square."},
        {"videos": ["clips/a.gif"], "question": "What moves?", "answer": "A square.", "start_s": 0.5, "end_s": 1.5},
        {"video": str(clip), "subtitles": "a.srt", "question": "What moves?", "answer": "A square."},
        {"video": "clips/a.gif", "conversations": talk},
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A square."}]},
    ]
    source = JsonlSource(write_rows(*map(json.dumps, forms)))
    for example in source:
        assert has_video(example)
        found = parsed(example)
        assert found.videos == (str(clip),) and not found.images
        assert found.conversations[0].messages[0].text == "What moves?"
        check_example(example)
    assert (parsed(source[1]).start_s, parsed(source[1]).end_s) == (0.5, 1.5)
    assert source[2]["subtitles"] == str(tmp_path / "a.srt")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"video": "missing.mp4"}, r"'.*missing\.mp4' does not exist"),
        ({"video": "text.mp4"}, "text.mp4"),
        ({"video": "empty.mp4"}, "is empty"),
        ({"video": "a.png"}, "single PNG picture"),
        ({"video": "good.gif", "start_s": 90}, "90"),
        ({"video": "good.gif", "subtitles": "none.srt"}, "cannot read subtitle file"),
        ({"video": "https://example.org/a.mp4"}, "download it"),
        ({"video": 3}, "path of a file"),
        ({"video": "good.gif", "subtitle": "a.srt"}, "did you mean 'subtitles'"),
        ({"video": "good.gif", "image": "a.png"}, "not both"),
    ],
)
def test_a_broken_video_is_one_clear_error(row, says, write_rows, tmp_path):
    write_clip(tmp_path / "good.gif")
    (tmp_path / "text.mp4").write_text("no video at all, only text " * 20)
    (tmp_path / "empty.mp4").write_bytes(b"")
    source = JsonlSource(write_rows(json.dumps({**row, "question": "?", "answer": "!"})))
    with pytest.raises(OLMoInputError, match=says):
        check_example(source[0])


def test_a_quick_check_sees_missing_files_and_decodes_nothing(write_rows, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    rows = [json.dumps({"video": name, "question": "?", "answer": "!"}) for name in ("text.mp4", "missing.mp4")]
    source = JsonlSource(write_rows(*rows))
    assert check_example(source[0], is_decoded=False) == [None]
    with pytest.raises(OLMoInputError, match="does not exist"):
        check_example(source[1], is_decoded=False)


def test_clips_in_a_folder_go_with_the_text_beside_them(tmp_path, make_picture):
    clip = write_clip(tmp_path / "sub" / "a.mp4")
    clip.with_suffix(".txt").write_text("A square moves.")
    other = write_clip(tmp_path / "b.mp4")
    other.with_suffix(".json").write_text('{"question": "What?", "answer": "A square.", "start_s": 1}')
    (tmp_path / "c.png").write_bytes(make_picture())
    (tmp_path / "c.txt").write_text("Noise.")
    by_file = {source_row.get("video") or source_row["image"]: source_row for source_row in FolderSource(tmp_path)}
    assert set(by_file) == {str(clip), str(other), str(tmp_path / "c.png")}
    assert by_file[str(clip)]["text"] == "A square moves." and by_file[str(clip)]["style"] == "long_caption"
    assert parsed(by_file[str(other)]).start_s == 1
    for example in by_file.values():
        check_example(example)


def test_a_row_in_a_folder_may_name_its_clip_inside_its_messages(tmp_path):
    clip = write_clip(tmp_path / "a.mp4")
    parts = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A square."}]
    beside = clip.with_suffix(".json")
    for row in ({"messages": turns}, {"message_list": [{"messages": turns}]}):
        beside.write_text(json.dumps(row))
        (example,) = FolderSource(tmp_path)
        assert parsed(example).videos == (str(clip),)
    parts[0] = {"type": "video"}  # only where it stands among the words
    beside.write_text(json.dumps({"messages": turns}))
    (example,) = FolderSource(tmp_path)
    assert parsed(example).videos == (str(clip),)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ({"videos": ["a.mp4"]}, True),
        ({"image": "a.png", "video": None}, False),
        ({"messages": [{"role": "user", "content": [{"type": "video", "path": "a.mp4"}]}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]}, False),
        ({"message_list": ({"messages": [{"content": ({"type": "video", "video": b"..."},)}]},)}, True),
        ({"message_list": [[{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]]}, True),
        ({"messages": "text", "message_list": 3}, False),
        ({"messages": [None, {"content": None}, {"content": ["text"]}]}, False),
    ],
)
def test_a_video_is_seen_wherever_it_stands(example, expected):
    assert has_video(example) is expected


def test_a_name_is_found_in_the_folders_of_its_dataset(tmp_path):
    here, cut = write_clip(tmp_path / "data" / "v1.mp4"), write_clip(tmp_path / "cut" / "7.mp4")
    folders = (VideoFolder(""), VideoFolder("data"), VideoFolder("cut", True))
    assert find_video("v1", tmp_path, folders) == (str(here), False)
    assert find_video("v1.mp4", tmp_path, folders).video == str(here)
    assert find_video(7, tmp_path, folders) == (str(cut), True)
    assert find_video({"bytes": b"x", "path": "v1"}, tmp_path, folders).video == b"x"
    assert find_video({"bytes": None, "path": "v1"}, tmp_path, folders).video == str(here)
    with pytest.raises(OLMoInputError, match=r"'v2' is not there .*data.*image_root"):
        find_video("v2", tmp_path, folders)


# -- datasets in the layouts of their repositories ---------------------------------------------------------------------


def opened(path: Path, **values: Any) -> Source:
    return open_source(SourceConfig(kind="hub", path=str(path), **values))


def as_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The way LLaVA-Video-178K and MVBench keep their rows: one list in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


@pytest.mark.parametrize(
    ("fields", "question", "answer"),
    [
        ("llava_video_cap", "Describe the video.", "A square moves over black."),
        ("llava_video_oe", "What moves?", "A red square moves."),
        ("llava_video_mc", "What moves?\nA. A ball.\nB. A square.\nAnswer with the letter.", "B. A square."),
    ],
)
def test_llava_video(fields, question, answer, tmp_path):
    clip = write_clip(tmp_path / "academic_source" / "Charades" / "RW587.mp4")
    row = {
        "id": "RW587",
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
        "data_source": "0_30_s_academic_v0_1",
        "video": "academic_source/Charades/RW587.mp4",
    }
    other = {**row, "id": "RW588", "video": "academic_source/Charades/RW588.mp4"}
    source = opened(as_json(tmp_path / "0_30_s_academic_v0_1.json", [row, other]), fields=fields)
    found = parsed(source[0])
    assert found.videos == (str(clip),)
    assert [message.text for message in found.conversations[0].messages] == [question, answer]
    assert source[0]["metadata"]["id"] == "RW587"
    check_example(source[0])
    with pytest.raises(OLMoInputError, match=r"row 1: the video 'academic_source/Charades/RW588\.mp4' is not there"):
        source[1]


def test_mvbench_joins_its_parts_and_knows_cut_clips(tmp_path):
    whole = write_clip(tmp_path / "star" / "Charades_v1_480" / "ZS9XR.mp4", n=20)
    cut = write_clip(tmp_path / "video" / "star" / "Charades_segment" / "AAAAA.mp4")
    other = write_clip(tmp_path / "clevrer" / "video_validation" / "video_10009.mp4")
    row = {"video": "ZS9XR.mp4", "question": "What next?", "candidates": ["ran", "sat"], "answer": "sat"}
    bounds = {"start": 1.0, "end": 3.0}
    as_json(tmp_path / "json" / "action_sequence.json", [row | bounds, row | bounds | {"video": "AAAAA.mp4"}])
    counts = {"video": "video_10009.mp4", "question": "How many?", "candidates": ["3", "2", "1"], "answer": "1"}
    as_json(tmp_path / "json" / "moving_count.json", [counts])
    source = opened(tmp_path, fields="mvbench")
    assert len(source) == 3 and source.name == "mvbench"
    first, second, third = (parsed(example) for example in source)
    assert (first.videos, first.start_s, first.end_s) == ((str(whole),), 1.0, 3.0)
    assert (second.videos, second.start_s) == ((str(cut),), None), "what is cut has no start"
    assert third.videos == (str(other),) and third.conversations[0].answer_idx == 2
    assert [example["metadata"]["category"] for example in source] == ["action_sequence"] * 2 + ["moving_count"]
    assert [example["metadata"]["row"] for example in source] == [0, 1, 2]
    assert source.place(2) == "mvbench/moving_count, row 0"
    assert pickle.loads(pickle.dumps(source))[2] == source[2]
    only = opened(tmp_path, fields="mvbench", subset="moving_count")
    assert len(only) == 1 and only[0]["metadata"]["category"] == "moving_count"
    with pytest.raises(OLMoInputError, match="no subset 'moving'"):
        opened(tmp_path, fields="mvbench", subset="moving")
    for example in source:
        check_example(example)


def test_next_qa_has_choices_in_columns_of_their_own(tmp_path):
    clip = write_clip(tmp_path / "NExTVideo" / "4010069381.mp4")
    row = {
        "video": 4010069381, "frame_count": 369, "width": 640, "height": 480, "question": "why did he run",
        "answer": 3, "qid": 0, "type": "CW", "a0": "fun", "a1": "fear", "a2": "rain", "a3": "late", "a4": "sport",
    }  # fmt: skip
    source = opened(as_parquet(tmp_path / "MC.parquet", [row, row]), fields="next_qa")
    found = parsed(source[0])
    assert found.videos == (str(clip),)
    assert found.conversations[0].options == ("fun", "fear", "rain", "late", "sport")
    assert found.conversations[0].answer_idx == 3 and source[0]["metadata"]["type"] == "CW"
    assert len(opened(tmp_path / "MC.parquet", fields="next_qa", group_size=8)) == 1, "one video, two questions"
    open_row = {"video": 4010069381, "question": "what runs", "answer": "dog", "qid": 1, "type": "DO"}
    both = [open_row | {"additional_ref_answer": "puppy"}, open_row | {"additional_ref_answer": None}]
    source = opened(as_parquet(tmp_path / "OE.parquet", both), fields="next_qa_open")
    assert [parsed(example).conversations[0].answers for example in source] == [("dog", "puppy"), ("dog",)]
    source = opened(as_parquet(tmp_path / "lacking.parquet", [open_row]), fields="next_qa_open")
    assert parsed(source[0]).conversations[0].answers == ("dog",)


def test_perception_test(tmp_path):
    clip = write_clip(tmp_path / "videos" / "video_8241.mp4")
    row = {
        "video_name": "video_8241", "question": "Is it on?", "question_id": "0", "options": ["yes", "no", "unknown"],
        "answer_id": "1", "area": "physics", "reasoning": "descriptive", "tag": ["state"],
    }  # fmt: skip
    found = parsed(opened(as_parquet(tmp_path / "rows.parquet", [row]), fields="perception_test")[0])
    assert found.videos == (str(clip),) and found.conversations[0].answer_idx == 1
    assert found.metadata["area"] == "physics"


def test_video_mme_with_and_without_subtitles(tmp_path):
    clip = write_clip(tmp_path / "data" / "fFjv93ACGo8.mp4")
    write_clip(tmp_path / "data" / "other.mp4")
    srt = write_subtitles(tmp_path / "subtitle" / "fFjv93ACGo8.srt", "hello")
    row = {
        "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "url": "x",
        "videoID": "fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting Problem", "question": "How many?",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are the same."], "answer": "C",
    }  # fmt: skip
    file = as_parquet(tmp_path / "rows.parquet", [row, row | {"videoID": "other"}])
    plain = parsed(opened(file, fields="video_mme")[0])
    assert plain.videos == (str(clip),) and plain.subtitles is None and plain.metadata["duration"] == "short"
    assert plain.conversations[0].options[:2] == ("Apples.", "Candles.") and plain.conversations[0].answer_idx == 2
    spoken = opened(file, fields="video_mme_subtitles")
    assert spoken[0]["subtitles"] == str(srt) and "subtitles" not in spoken[1], "not every video has some"
    check_example(spoken[0])


def test_videos_inside_a_dataset_stay_bytes(tmp_path):
    data = write_clip(tmp_path / "a.mp4").read_bytes()
    rows = datasets.Dataset.from_list([{"clip": {"bytes": data, "path": None}, "q": "What?", "a": "A square."}])
    rows = rows.cast_column("clip", datasets.Video(decode=False))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    columns = {"video": "clip", "question": "q", "answer": "a"}
    source = opened(tmp_path / "rows.parquet", columns=columns)
    assert parsed(source[0]).videos == (data,)
    check_example(source[0])
    plain = as_parquet(tmp_path / "plain.parquet", [{"clip": {"bytes": data, "path": None}, "q": "?", "a": "!"}])
    assert parsed(opened(plain, columns=columns)[0]).videos == (data,), "a record that nothing calls a video"


def test_own_columns_may_name_a_part_and_subtitles(tmp_path):
    clip = write_clip(tmp_path / "clips" / "a.mp4", n=20)
    srt = write_subtitles(tmp_path / "clips" / "a.srt", "hello")
    row = {"file": "a", "from": 1, "to": 2.5, "said": "a.srt", "q": "What?", "a": "A square."}
    columns = {"video": "file", "start_s": "from", "end_s": "to", "subtitles": "said", "question": "q", "answer": "a"}
    path = as_parquet(tmp_path / "rows.parquet", [row])
    found = parsed(opened(path, columns=columns, image_root=str(tmp_path / "clips"))[0])
    assert (found.videos, found.start_s, found.end_s, found.subtitles) == ((str(clip),), 1.0, 2.5, str(srt))
    with pytest.raises(OLMoConfigurationError, match="image or video, not both"):
        SourceConfig(kind="hub", path="x", columns={**columns, "image": "i"})
    with pytest.raises(OLMoConfigurationError, match="goes with video"):
        SourceConfig(kind="hub", path="x", columns={"start_s": "s", "question": "q", "answer": "a"})
    with pytest.raises(OLMoConfigurationError, match="no column 'froom'"):
        opened(path, columns={**columns, "start_s": "froom"})


def test_field_maps_of_videos_name_no_picture() -> None:
    maps = [fields for fields in FIELD_MAPS.values() if fields.video is not None]
    assert len(maps) == 9 and all(fields.image is None and fields.repository for fields in maps)
    assert len(FIELD_MAPS["mvbench"].subsets) == 20

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from olmo.data.jsonl import JsonlSource
from olmo.data.pictures import downloaded_file
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.messages import parse_example

QUESTION = '{"image": "a.png", "question": "What is this?", "answer": "Noise."}'


def test_every_written_form_is_an_example(write_rows, tmp_path):
    forms = [
        {"image": "a.png", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
        {"image": "a.png", "question": "What?", "answer": "Noise."},
        {"image": "a.png", "label": "dots", "points": [[1, 2], {"x": 3, "y": 4}]},
        {"image": "a.png", "label": "dots", "points": [[10, 20]], "point_scale": 100, "style": "point_count"},
        {"images": ["a.png", "b.png"], "question": "Which is brighter?", "answer": "The second."},
        {"image": "a.png", "message_list": [{"question": "1?", "answer": "1"}, {"label": "x", "points": [[1, 1]]}]},
        {"question": "What is 1 + 1?", "answer": "2"},
        {"image": "a.png", "style": "long_caption", "text": "A picture of noise."},
        {"image": "a.png", "question": "Which?", "options": ["cat", "dog"], "answer_idx": 1},
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nHi"}, {"from": "gpt", "value": "Yo"}],
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "b.png"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "Noise."},
            ]
        },
    ]
    source = JsonlSource(write_rows(*map(json.dumps, forms)))
    assert len(source) == len(forms) and source.name == "rows"
    parsed = [parse_example(source[i]) for i in range(len(source))]
    assert all(c.has_target for example in parsed for c in example.conversations)
    assert parsed[0].images == (str(tmp_path / "a.png"),)
    assert parsed[10].images == (str(tmp_path / "b.png"),)
    assert parsed[2].conversations[0].style == "pointing" and parsed[3].conversations[0].style == "point_count"
    assert parsed[5].conversations[1].style == "pointing"
    assert [m.text for m in parsed[9].conversations[0].messages] == ["Hi", "Yo"]
    assert parsed[4].metadata == {"source": "rows", "row": 4}


def test_blank_lines_marks_and_windows_endings(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + QUESTION.encode() + b"\r\n   \r\n\r\n" + QUESTION.encode())
    source = JsonlSource(path)
    assert len(source) == 2
    assert [source.place(i) for i in range(2)] == [f"{path}:2", f"{path}:5"]
    assert source[1]["answer"] == "Noise."
    path.write_bytes(b"\xef\xbb\xbf" + QUESTION.encode())
    assert JsonlSource(path)[0]["answer"] == "Noise."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png", "question": "Hm?", "anwser": "x"}', "unknown key 'anwser'; did you mean 'answer'"),
        ('{"image": "a.png", "message_list": [{"quetsion": "Hm?"}]}', "unknown key 'quetsion'"),
        ("{'image': 'a.png'}", "not JSON .column 2"),
        ("[" * 5000, "not JSON .nested too deep"),
        ('"just text"', "a row is a JSON object"),
        ('{"image": 7, "question": "Hm?"}', "a picture is the path of a file, got 7"),
        ('{"image": " ", "question": "Hm?"}', "path of the picture is empty"),
        ('{"image": "https://example.org/a.png", "question": "Hm?"}', "is not on this machine; get it with `molmo"),
        ('{"question": "Hm?", "answer": "x", "metadata": 3}', "'metadata' is an object"),
        ('{"conversations": [{"from": "cat", "value": "miaow"}]}', r"conversations\[0\] is"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(write_rows, line, message):
    path = write_rows(QUESTION, "", line)
    source = JsonlSource(path)
    with pytest.raises(OLMoInputError, match=message) as error:
        source[1]
    assert str(error.value).startswith(f"{path}:3: ")
    assert source[0]["answer"] == "Noise."


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "Café?"}'.encode("latin-1"))
    with pytest.raises(OLMoInputError, match=r"not UTF-8 \(byte 17"):
        JsonlSource(path)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ("[\n{}]", "is a JSON list.*jq"),
        ('{\n"a": 1}', "over many lines"),
    ],
)
def test_files_that_are_no_jsonl(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(OLMoInputError, match=message):
        JsonlSource(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(OLMoInputError, match="does not exist"):
        JsonlSource(tmp_path / "no.jsonl")
    with pytest.raises(OLMoInputError, match="is a folder"):
        JsonlSource(tmp_path)


def test_own_values_go_into_the_metadata(write_rows):
    source = JsonlSource(write_rows('{"question": "a", "answer": "b", "id": 7, "author": "me", "image": null}'))
    assert source[0] == {
        "question": "a",
        "answer": "b",
        "metadata": {"id": 7, "author": "me", "source": "rows", "row": 0},
    }


def test_the_style_is_for_those_that_name_none(write_rows):
    rows = (
        QUESTION,
        '{"question": "a", "answer": "b", "style": "chart_qa"}',
        '{"label": "a", "points": [[1, 2]]}',
        '{"message_list": [{"question": "a", "answer": "b"}, [{"role": "user", "content": "c"}], {"style": "x"}]}',
    )
    source = JsonlSource(write_rows(*rows), style="vqa2")
    assert [source[i]["style"] for i in range(3)] == ["vqa2", "chart_qa", "pointing"]
    assert [c["style"] for c in source[3]["message_list"]] == ["vqa2", "vqa2", "x"]


def test_a_url_is_found_among_the_downloads(write_rows, tmp_path):
    url = "https://example.org/a.png"
    source = JsonlSource(write_rows(json.dumps({"image": url, "question": "Hm?"})), image_root=tmp_path / "pictures")
    file = downloaded_file(url, tmp_path / "pictures")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert source[0]["image"] == str(file)


def test_a_file_that_grew_is_an_error(write_rows):
    path = write_rows(QUESTION)
    source = JsonlSource(path)
    path.write_text("\n" + path.read_text())
    with pytest.raises(OLMoInputError, match="when it was opened"):
        source[0]


def test_rows_are_the_same_for_threads_and_after_pickling(write_rows):
    source = JsonlSource(write_rows(*(json.dumps({"question": str(i), "answer": "x" * i}) for i in range(200))))
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.at, range(200))) == [copy[i] for i in range(200)]
    assert len(list(source)) == 200
    with pytest.raises(IndexError):
        source[-1]

from __future__ import annotations

import pytest

from olmo.data.folder import FolderSource
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.messages import parse_example


@pytest.fixture
def folder(tmp_path, make_picture):
    root = tmp_path / "art"
    (root / "sub").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "c.png", "sub/d.png"):
        (root / name).write_bytes(make_picture())
    (root / "a.txt").write_text("\ufeffA noisy picture.\n", encoding="utf-8")
    (root / "b.json").write_text('{"question": "What?", "answer": "Noise."}')
    (root / "sub" / "d.json").write_text('{"images": ["d.png", "../b.png"], "question": "Same?", "answer": "Yes"}')
    (root / "notes.txt").write_text("not about a picture")
    return root


def test_texts_and_rows_beside_pictures(folder):
    source = FolderSource(folder)
    assert (len(source), source.name, source.n_without_text) == (3, "art", 1)
    caption, question, pair = source
    assert caption["text"] == "A noisy picture." and caption["style"] == "long_caption"
    assert question["image"] == str(folder / "b.png") and question["answer"] == "Noise."
    assert pair["images"] == [str(folder / "sub" / "d.png"), str(folder / "sub" / ".." / "b.png")]
    assert all(parse_example(example).conversations[0].has_target for example in source)
    assert source.place(0) == str(folder / "a.txt") and pair["metadata"] == {"source": "art", "row": 2}


def test_a_style_for_all(folder):
    assert [example["style"] for example in FolderSource(folder, style="demo")] == ["demo", "demo", "demo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.txt", b" \n", "caption is empty"), ("a.txt", b"\xff\xfe\xff", "not UTF-8"), ("b.json", b"[1]", "JSON object")],
)
def test_a_bad_text_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(OLMoInputError, match=message) as error:
        list(FolderSource(folder))
    assert str(error.value).startswith(str(folder / name))


def test_folders_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(OLMoInputError, match="does not exist"):
        FolderSource(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OLMoInputError, match="holds no pictures"):
        FolderSource(tmp_path / "empty")
    (folder / "a.json").write_text("{}")
    with pytest.raises(OLMoInputError, match=r"both a \.txt and a \.json"):
        FolderSource(folder)
    for text in folder.rglob("*"):
        if text.suffix in (".txt", ".json"):
            text.unlink()
    with pytest.raises(OLMoInputError, match="none of the 4 pictures"):
        FolderSource(folder)

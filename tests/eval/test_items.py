from __future__ import annotations

import numpy as np
import pytest

from olmo.eval.items import items_of
from olmo.eval.reference import Reference
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.points import Point

PICTURE = np.zeros((20, 40, 3), dtype=np.uint8)


def test_the_answer_goes_one_way_and_the_question_the_other() -> None:
    example = {"image": PICTURE, "question": "What?", "answer": "A cat.", "style": "vqa2", "metadata": {"id": 7}}
    (item,) = items_of(example, row=3, place="mine.jsonl:4")
    assert item.key == (3, 0) and item.n_questions == 1 and item.prompt == "What?"
    assert item.request["messages"] == [{"role": "user", "content": "What?"}]
    assert item.request["style"] == "vqa2" and item.request["images"] == [PICTURE]
    assert item.request["metadata"] == {"place": "mine.jsonl:4", "n_options": 0}
    assert item.reference.answers == ("A cat.",)
    assert item.reference.metadata == {"id": 7, "question_index": 0}
    assert "A cat." not in str({k: v for k, v in item.request.items() if k != "images"})


def test_several_conversations_are_several_questions() -> None:
    talk = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "No."},
    ]
    items = items_of({"message_list": [talk, talk[:2], talk[:3]]}, row=0)
    assert [item.key for item in items] == [(0, 0), (0, 1), (0, 2)]
    assert [item.reference.answers for item in items] == [("No.",), ("Yes.",), ()]
    assert [len(item.request["messages"]) for item in items] == [3, 1, 3]
    assert items[0].prompt == "One?\nYes.\nTwo?"


def test_options_points_and_styles() -> None:
    (item,) = items_of({"question": "Which?", "options": ["cat", "dog"], "answer_idx": 1}, row=0)
    assert item.prompt == "Which?\nA: cat\nB: dog"
    assert item.request["options"] == ["cat", "dog"] and "answer_idx" not in item.request
    assert (item.reference.options, item.reference.answer_idx) == (("cat", "dog"), 1)
    (item,) = items_of({"image": PICTURE, "label": "cats", "points": [(10, 5)], "style": "pointing"}, row=0)
    assert item.prompt == "cats" and item.request["label"] == "cats" and "points" not in item.request
    assert item.reference.points == ((10.0, 5.0),)
    (item,) = items_of({"question": "What?", "answers": ["a", "b"]}, row=0, style="vqa2")
    assert item.request["style"] == "vqa2" and item.reference.answers == ("a", "b")
    with pytest.raises(OLMoInputError, match="message"):
        items_of({"image": PICTURE}, row=0)


def test_a_video_goes_with_its_part_and_its_subtitles() -> None:
    example = {"video": "a.mp4", "start_s": 1, "end_s": 2.5, "subtitles": "a.srt", "question": "?", "answer": "!"}
    (item,) = items_of({**example, "metadata": {"source": "clips", "row": 4, "secret": 1}}, row=4)
    assert item.request["videos"] == ["a.mp4"] and "images" not in item.request
    assert [item.request[key] for key in ("start_s", "end_s", "subtitles")] == [1, 2.5, "a.srt"]
    known = {"source": "clips", "row": 4, "place": "row 4", "n_options": 0}
    assert item.request["metadata"] == known, "source and row seed random frames"
    (item,) = items_of({"video": "a.mp4", "question": "?", "answer": "!"}, row=0)
    assert "start_s" not in item.request and "subtitles" not in item.request


def test_places_are_percent() -> None:
    pixels = Reference(points=((10, 5),))
    assert pixels.places() is None, "in pixels of a picture of unknown size"
    assert pixels.seen_at((40, 20)).places() == [Point(25, 25)]
    assert Reference(points=((10, 5),), point_scale=100).places() == [Point(10, 5)]
    assert Reference(points=()).places() == []
    written = Reference(answers=('<point x="1.0" y="2.0" alt="a">a</point>',))
    assert written.places() == [Point(1, 2, "a")]
    assert Reference(answers=("There are none.",)).places() == []
    assert Reference(answers=("red",)).places() is None
    assert pixels.seen_at((40, 20)).seen_at((1, 1)).image_size == (40, 20), "what is known stays"

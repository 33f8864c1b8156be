from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.example_check import check_example


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_what_can_be_learned_passes(picture):
    points = {"label": "x", "points": [[60, 40], [0, 0]]}
    assert check_example({"image": picture, "question": "a", "answer": "b"}) == [None]
    assert check_example({"image": picture, "style": "pointing", **points}) == ["pointing"]
    assert check_example({"image": picture, "style": "pointing", **points}, is_decoded=False) == ["pointing"]
    assert check_example({"question": "a", "answers": ["b", "c"], "style": "vqa2"}) == ["vqa2"]
    tree = {"image": picture, "style": "x", "message_list": [{"question": "a", "answer": "b"}] * 2}
    assert check_example(tree) == ["x", "x"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "there is no answer to learn from"),
        ({"question": "a", "answer": " "}, "the assistant's text is empty"),
        ({"messages": []}, "non-empty list"),
        ({"label": "x", "points": [[61, 1]], "style": "pointing"}, r"point \(61, 1\) is outside .* 60 x 40 in pixels"),
        ({"label": "x", "points": [[1, -1]], "style": "pointing", "point_scale": 100}, "in a scale of 100"),
        ({"points": [[1, 1]], "style": "pointing"}, "needs a question or a 'label'"),
        ({"question": "a", "options": [str(i) for i in range(27)], "answer_idx": 0}, "at most 26"),
        (
            {"message_list": [{"question": "a", "answer": "b"}, {"question": "c"}]},
            "^conversation 1: there is no answer",
        ),
    ],
)
def test_what_cannot_does_not(picture, row, message):
    with pytest.raises(OLMoInputError, match=message):
        check_example({"image": picture, **row})


def test_pictures_are_decoded_or_only_looked_for(tmp_path, picture):
    row = {"question": "a", "answer": "b"}
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(picture).read_bytes()[:-30])
    with pytest.raises(OLMoInputError, match="damaged or truncated"):
        check_example({"image": str(broken), **row})
    assert check_example({"image": str(broken), **row}, is_decoded=False) == [None]
    with pytest.raises(OLMoInputError, match="does not exist"):
        check_example({"image": str(tmp_path / "no.png"), **row}, is_decoded=False)
    with pytest.raises(OLMoInputError, match="over the limit of 100"):
        check_example({"image": picture, **row}, max_pixels=100)


def test_questions_need_no_answer():
    assert check_example({"question": "a", "style": "vqa2"}, needs_answer=False) == ["vqa2"]


def test_points_need_a_picture():
    with pytest.raises(OLMoInputError, match="'points' need a picture"):
        check_example({"label": "x", "points": [[1, 1]], "style": "pointing", "point_scale": 100})

from __future__ import annotations

from dataclasses import replace

import pytest

from olmo.data.scenes import Question, Scene, Task, score
from olmo.data.scenes.dataset import question_rng
from olmo.data.scenes.questions import make_question, point_text
from olmo.data.scenes.scoring import counts_in, read_points


def question(task: Task, answer: str, **expected: object) -> Question:
    return Question(task, "?", answer, (), dict(expected), "user_qa")


@pytest.mark.parametrize(
    ("task", "answer", "right", "wrong"),
    [
        (Task.naming, "apple", ["apple", " Apple.", "an apple", "The apple!"], ["apples", "pear", "apple pear", "a"]),
        (Task.listing, "apple, cat", ["Apple, cat.", "an apple, a cat"], ["cat, apple", "apple", "apple, cat, dog"]),
        (Task.counting, "3", ["3", "3."], ["2", "13", "3 3", "33"]),
        (Task.position, "left", ["left", "Left."], ["right", "to the left"]),
        (Task.reading, "stop", ["stop", "STOP", '"stop"'], ["shop", "stops"]),
    ],
)
def test_texts(scenes: list[Scene], task: Task, answer: str, right: list[str], wrong: list[str]) -> None:
    q = question(task, answer)
    assert all(score(q, text, scenes[0]) for text in right)
    assert not any(score(q, text, scenes[0]) for text in wrong)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("2 apples and 1 cat on a plain background. The sign says stop.", True),
        ("1 cat and 2 apples", True),
        ("2 apples and 2 cats on a plain background.", False),
        ("2 apples on a plain background.", False),
        ("2 apples, 1 cat and 1 dog on a plain background.", False),
        ("2 apples, 1 cat and 3 apples.", False),
        ("12 apples and 1 cat.", False),
    ],
)
def test_captions(scenes: list[Scene], text: str, right: bool) -> None:
    assert score(question(Task.describing, "", counts={"apple": 2, "cat": 1}), text, scenes[0]) is right


def test_counts_in_a_caption() -> None:
    assert counts_in("3 fish and 1 butterfly on a checked background.") == {"fish": 3, "butterfly": 1}
    assert counts_in("nothing") == {}


def several(scenes: list[Scene]) -> tuple[Scene, str]:
    """A scene with at least two objects of one kind and one of another, and the first kind."""
    return next((s, n) for s in scenes for n, c in s.counts().items() if c >= 2 and len(s.counts()) >= 2)


def pointing(scene: Scene, name: str) -> Question:
    points = sorted(o.point for o in scene.of(name))
    expected = {"count": len(points), "points": points}
    return Question(Task.pointing, "?", point_text(points, name, name + "s"), (name,), expected, "pointing")


def test_points_right(scenes: list[Scene]) -> None:
    scene, name = several(scenes)
    q = pointing(scene, name)
    points = q.expected["points"]
    assert score(q, point_text(points[::-1], name, name), scene), "order does not matter"
    assert score(q, point_text([(x + 0.5, y) for x, y in points], name, name), scene), "the slack is 1.5 %"
    assert score(q, "Sure: " + point_text(points, "thing", "things"), scene), "the alt text does not matter"


def test_points_wrong(scenes: list[Scene]) -> None:
    scene, name = several(scenes)
    q = pointing(scene, name)
    points = q.expected["points"]
    other = next(o.point for o in scene.objects if o.concept.name != name)
    wrong = {
        "one missing": points[:-1],
        "one extra": [*points, other],
        "one of another kind": [*points[:-1], other],
        "two on the same object": [*points[:-1], points[0]] if len(points) > 1 else [],
        "outside the picture": [*points[:-1], (130.0, 50.0)],
        "an extra one outside the picture": [*points, (130.0, 50.0)],
        "all at one corner": [(0.0, 0.0)] * len(points),
    }
    for reason, given in wrong.items():
        assert not score(q, point_text(given, name, name), scene), reason
    assert not score(q, "There are none.", scene)
    assert not score(q, name, scene)


def test_point_at_nothing(scenes: list[Scene]) -> None:
    scene = scenes[0]
    q = make_question(scene, question_rng(0), Task.pointing, absent_share=1.0)
    assert q is not None and q.answer == "There are none."
    assert score(q, "there are none", scene)
    assert not score(q, '<point x="50.0" y="50.0" alt="x">x</point>', scene)
    assert not score(replace(q, expected={"count": 1}), "There are none.", scene)


def test_a_point_just_off_the_object_may_be_given_to_its_neighbour(scenes: list[Scene]) -> None:
    # Where two objects touch, a point within the slack of both is given to whichever is still free.
    from olmo.data.scenes.scoring import _all_matched

    assert _all_matched([{1, 2}, {1}])
    assert _all_matched([{1}, {1, 2}, {2, 3}])
    assert not _all_matched([{1}, {1}])
    assert not _all_matched([set()])


def test_read_points_is_tolerant() -> None:
    assert read_points("<point x='4' y='5.5'>") == [(4.0, 5.5)]
    assert read_points('<points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="a">') == [(1.0, 2.0), (3.0, 4.0)]
    assert read_points('<points x1="1.0" y2="2.0">') == []
    assert read_points('x="-3" y="4"') == [(-3.0, 4.0)]

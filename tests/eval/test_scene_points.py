"""Points in scenes: right or wrong, and precision, recall and F1 by the masks of the objects, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from olmo.data.scenes import Question, Scene, Task, make_scene
from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.points_text import kind_points, point_text
from olmo.data.scenes.questions import make_question
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.data.scenes.scoring import score
from olmo.eval.metrics.scene import pointing_scores, scene_marks, scene_scores

WIDE = ScenesConfig(
    concept_set="wide", art=["noto", "fluent"], max_count=10, max_objects=12, min_object_share=0.12, absent_share=0.3,
    task_weights={"pointing": 1, "pointing_several": 1, "follow_up": 1},
)  # fmt: skip


def several_scene() -> tuple[Scene, str, str]:
    """A scene with a kind that has 3 objects or more, and another."""
    for seed in range(99):
        scene = make_scene(seed)
        counts = scene.counts()
        many = max(counts, key=lambda name: counts[name])
        if len(counts) > 1 and counts[many] >= 3:
            return scene, many, next(name for name in counts if name != many)
    raise AssertionError("no such scene")


def ask(scene: Scene, *names: str) -> Question:
    points = {name: kind_points(scene, name) for name in names}
    if len(names) > 1:
        return Question(Task.pointing_several, "?", "", names, {"points_of": points}, "pointing")
    found = points[names[0]]
    return Question(Task.pointing, "?", "", names, {"count": len(found), "points": found}, "pointing")


def background_point(scene: Scene) -> tuple[float, float]:
    side = scene.object_map.shape[0]
    row, column = np.argwhere(scene.object_map == 0)[0]
    return (column + 0.5) / side * 100, (row + 0.5) / side * 100


def scores(scene: Scene, question: Question, text: str) -> tuple[float, float, float]:
    found = pointing_scores(question, text, scene)
    assert found is not None
    return found["precision"], found["recall"], found["f1"]


def test_precision_recall_and_f1() -> None:
    scene, name, _ = several_scene()
    question, truth = ask(scene, name), kind_points(scene, name)
    n, off = len(truth), background_point(scene)
    assert scores(scene, question, point_text(truth, name, name)) == (1, 1, 1)
    assert scores(scene, question, point_text(truth[:1], name, name)) == pytest.approx((1, 1 / n, 2 / (n + 1)))
    extra = point_text([*truth, off], name, name)
    assert scores(scene, question, extra) == pytest.approx((n / (n + 1), 1, 2 * n / (2 * n + 1)))
    assert not any(scene_marks(question, extra, scene)), "right or wrong knows no half"
    assert scores(scene, question, point_text([off], name, name)) == (0, 0, 0)
    assert scores(scene, question, "There are none.") == (0, 0, 0)


def test_nothing_there() -> None:
    question = Question(Task.pointing, "?", "There are none.", ("cat",), {"count": 0, "points": []}, "pointing")
    scene = next(s for s in map(make_scene, range(99)) if "cat" not in s.counts())
    assert scores(scene, question, "There are none.") == (1, 1, 1)
    assert scores(scene, question, point_text([(50, 50)], "cat", "cats")) == (0, 0, 0)
    assert scene_scores(question, "There are none.", scene) == {
        "accuracy": 1, "pointing_absent": 1, "pointing_precision": 1, "pointing_recall": 1, "pointing_f1": 1,
    }  # fmt: skip


def test_two_kinds_are_paired_apart() -> None:
    scene, many, other = several_scene()
    question = ask(scene, many, other)
    here, there = kind_points(scene, many), kind_points(scene, other)
    n, m = len(here), len(there)
    right = f"{point_text(here, many, many)} {point_text(there, other, other)}"
    assert scores(scene, question, right) == (1, 1, 1)
    assert scene_marks(question, right, scene) == (True, True)
    swapped = f"{point_text(here, other, other)} {point_text(there, many, many)}"
    assert scores(scene, question, swapped) == (0, 0, 0)
    one_kind = point_text(here, many, many)
    assert scores(scene, question, one_kind) == pytest.approx((1, n / (n + m), 2 * n / (2 * n + m)))
    misnamed = f"{one_kind} {point_text(there, 'spoon', 'spoon')}"
    assert scores(scene, question, misnamed) == pytest.approx((n / (n + m),) * 3)
    assert not any(scene_marks(question, misnamed, scene))


def test_two_kinds_have_no_slack_inside() -> None:
    scene, many, other = several_scene()
    question = ask(scene, many, other)
    side = scene.object_map.shape[0]
    there = kind_points(scene, other)
    x, y = there[0]
    row, column = scene.object_map[int(y / 100 * side + 1e-6)], int(x / 100 * side + 1e-6)
    off = next(c for c in range(column, -1, -1) if row[c] != row[column])
    beside = [((off + 0.9) / side * 100, y), *there[1:]]
    # One decimal is enough for a pixel of 0.6 percent.
    text = f"{point_text(kind_points(scene, many), many, many)} {point_text(beside, other, other)}"
    assert scene_marks(question, text, scene) == (True, False)
    found = scene_scores(question, text, scene)
    assert (found["pointing_several"], found["pointing_several_near"]) == (0, 1)
    assert 0 < found["pointing_several_f1"] < 1


def test_the_answers_of_the_generator_are_wholly_right() -> None:
    seen = set()
    for seed, question in ScenesDataset(WIDE).evaluation_items(40):
        scene = make_scene(seed, WIDE)
        assert score(question, question.answer, scene)
        found = scene_scores(question, question.answer, scene)
        assert set(found.values()) == {1.0}, (seed, question)
        seen |= set(found)
    figures = {f"{task}_{figure}" for task in WIDE.task_weights for figure in ("precision", "recall", "f1")}
    near, absent = {"pointing_near", "pointing_several_near"}, {"pointing_absent"}
    assert seen == {"accuracy", *WIDE.task_weights} | figures | near | absent


def test_questions_without_places_have_no_points() -> None:
    scene, rng = make_scene(3), np.random.default_rng(0)
    question = make_question(scene, rng, Task.counting)
    assert question is not None
    assert pointing_scores(question, "3", scene) is None
    follow_up = replace(question, task=Task.follow_up, expected={"text": "3"})
    assert pointing_scores(follow_up, '<point x="1" y="1" alt="a">a</point>', scene) is None

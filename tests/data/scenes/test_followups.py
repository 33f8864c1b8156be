"""Conversations of several turns, and points for two kinds at once."""

from __future__ import annotations

import pytest

from olmo.data.scenes import Question, Scene, ScenesConfig, Task, make_question, make_scene, score
from olmo.data.scenes.dataset import ScenesDataset, question_rng
from olmo.data.scenes.followups import NOTHING_ELSE
from olmo.data.scenes.scoring import read_points

Asked = list[tuple[Scene, Question]]


def ask(task: Task, n: int = 150) -> Asked:
    scenes = [make_scene(seed, ScenesConfig()) for seed in range(n)]
    found = [(scene, make_question(scene, question_rng(scene.seed), task)) for scene in scenes]
    return [(scene, question) for scene, question in found if question is not None]


@pytest.fixture(scope="module")
def followed() -> Asked:
    return ask(Task.follow_up)


@pytest.fixture(scope="module")
def several() -> Asked:
    return ask(Task.pointing_several)


def test_right_answers_score_and_wrong_ones_do_not(followed: Asked, several: Asked) -> None:
    for scene, question in followed + several:
        assert score(question, question.answer, scene), question
        assert not score(question, "There are none.", scene)
        more = '<point x="1.0" y="1.0">x</point>' if read_points(question.answer) else "7"
        assert not score(question, f"{question.answer} {more}", scene)


def test_a_follow_up_has_turns_before_it(followed: Asked) -> None:
    assert {len(q.history) for _, q in followed} == {1, 2}
    _, question = followed[0]
    messages = question.messages()
    assert [m["role"] for m in messages] == ["user", "assistant"] * (len(question.history) + 1)
    assert messages[-2]["content"] == question.prompt and messages[-1]["content"] == question.answer
    assert question.messages(with_answer=False) == messages[:-1]


def test_earlier_answers_are_true(followed: Asked) -> None:
    for scene, question in followed:
        for prompt, answer in question.history:
            if answer.isdigit():
                assert int(answer) in scene.counts().values(), (prompt, answer)
            elif answer != NOTHING_ELSE and not read_points(answer):
                assert set(answer.split(", ")) <= set(scene.counts()), (prompt, answer)


def test_every_form_of_follow_up_comes_up(followed: Asked) -> None:
    answers = [q.answer for _, q in followed]
    assert any(a.isdigit() for a in answers) and any(read_points(a) for a in answers)
    assert any(a == NOTHING_ELSE for a in answers)
    assert any(q.prompt.startswith(("And the", "What about")) for _, q in followed)


def test_two_kinds_are_pointed_at_with_a_tag_each(several: Asked) -> None:
    for scene, question in several:
        assert question.answer.count("<point") == 2
        n = sum(len(scene.of(name)) for name in question.concepts)
        assert len(read_points(question.answer)) == n
        first, second = question.answer.split("> <")
        assert not score(question, first + ">", scene), "one kind alone is not enough"
        assert score(question, f"<{second} {first}>", scene), "the order of the tags does not matter"


def test_tasks_without_weight_are_not_asked() -> None:
    default = {q.task for _, q in ScenesDataset(ScenesConfig()).evaluation_items(30)}
    assert Task.follow_up not in default and Task.pointing_several not in default
    chosen = ScenesConfig(task_weights={"follow_up": 1.0, "naming": 0.0})
    assert {q.task for _, q in ScenesDataset(chosen).evaluation_items(30)} == {Task.follow_up}

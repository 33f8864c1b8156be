from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from olmo.data.scenes.moving.actors import PHRASES, Action
from olmo.data.scenes.moving.dataset import MovingScenesSource, moving_text_samples
from olmo.data.scenes.moving.moving_config import MovingScenesConfig, MovingTask
from olmo.data.scenes.moving.moving_scene import make_moving_scene
from olmo.data.scenes.moving.questions import (
    FIRST_HALF,
    is_right,
    make_moving_question,
    make_moving_questions,
    summarise,
)
from olmo.data.source import open_source
from olmo.data.source_config import SourceConfig, SourceKind
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.open_video import open_video


def asked(task: str, n: int = 150) -> list:
    rng = np.random.default_rng(0)
    drawn = [(s, make_moving_question(s, rng, MovingTask(task))) for s in map(make_moving_scene, range(n))]
    return [(scene, question) for scene, question in drawn if question is not None]


def test_answers_are_right_and_others_are_not() -> None:
    for task in MovingTask:
        found = asked(task.value, 40)
        assert found
        for _, question in found:
            assert is_right(question, question.answer.upper() + " ") and not is_right(question, "something else")
            assert question.messages(with_answer=False) == question.messages()[:1]
            assert question.prompt.isascii() and question.answer.isascii() and "{" not in question.prompt


def test_actions_are_those_of_the_things() -> None:
    for scene, question in asked("action"):
        doing = {a.concept.name: PHRASES[a.action] for a in (*scene.actors, *scene.still)}
        (name,) = (n for n in doing if f"the {n} " in question.prompt + " " or f"the {n}?" in question.prompt)
        assert question.answer == doing[name]


def test_order_follows_the_events() -> None:
    forms = Counter()
    for scene, question in asked("order", 300):
        forms[question.form] += 1
        names = [a.concept.name for a in scene.actors]
        if question.form == "order_first":
            assert question.answer == f"the {names[0]} {PHRASES[scene.actors[0].action]}"
        elif question.form == "order_last":
            assert question.answer == f"the {names[-1]} {PHRASES[scene.actors[-1].action]}"
        elif question.form == "order_pair":
            assert question.answer == min(question.choices, key=names.index)
        if question.form in ("order_first", "order_last"):
            assert all(a.action is Action.still for a in scene.group), "something else might come first"
    assert len(forms) == 4
    sides = Counter(q.answer for _, q in asked("order", 300) if q.form == "order_relation")
    assert 0.5 < sides["before"] / sides["after"] < 2.0


def test_no_order_of_a_single_event() -> None:
    lonely = next(s for s in map(make_moving_scene, range(50)) if len(s.actors) == 1)
    assert make_moving_question(lonely, np.random.default_rng(0), MovingTask.order) is None


def test_the_named_actor_is_the_only_one() -> None:
    for scene, question in asked("actor"):
        phrase = next(PHRASES[a.action] for a in scene.actors if a.concept.name == question.answer)
        assert phrase in question.prompt
        assert sum(PHRASES[a.action] == phrase for a in (*scene.actors, *scene.group)) == 1


def test_counts_are_those_of_the_first_and_last_frame() -> None:
    answers = Counter()
    for scene, question in asked("counting"):
        frame = 0 if question.form == "counting_start" else scene.n_frames - 1
        possible = {
            str(scene.count(a.concept.name, frame)) for a in scene.things if a.concept.plural in question.prompt
        }
        assert question.answer in possible
        answers[question.answer] += 1
    assert len(answers) >= 4


def test_halves() -> None:
    for scene, question in asked("when"):
        actor = next(a for a in scene.actors if f"the {a.concept.name} " in question.prompt)
        middle = (actor.begin + actor.end) / 2 / (scene.n_frames - 1)
        assert (question.answer == FIRST_HALF) == (middle < 0.5) and abs(middle - 0.5) >= 0.1


def test_summaries_count_what_happens() -> None:
    for scene, question in asked("summary", 60):
        events = [a for a in (*scene.actors, *scene.group) if a.action is not Action.still]
        assert question.answer == summarise(scene)
        assert sum(int(word) for word in question.answer.split() if word.isdigit()) == len(events)


def test_questions_differ() -> None:
    scene = next(s for s in map(make_moving_scene, range(50)) if len(s.actors) == 3)
    drawn = make_moving_questions(scene, np.random.default_rng(1), n=12)
    assert len(drawn) >= 8 and len({(q.prompt, q.answer) for q in drawn}) == len(drawn)
    only = make_moving_questions(scene, np.random.default_rng(1), tasks=["order"], n=5)
    assert only and all(q.task is MovingTask.order for q in only)


def test_source_rows_are_examples() -> None:
    config = SourceConfig(kind=SourceKind.moving_scenes, moving_scenes=MovingScenesConfig(questions_per_clip=3))
    source = open_source(config)
    example = source[3]
    assert len(example["message_list"]) == len(example["styles"]) <= 3
    with open_video(example["video"]) as video:
        assert video.n_frames == len(example["video"]["frames"])
        assert video.seconds is not None and (video.seconds == example["video"]["seconds"]).all()
    again = source.at(3, epoch=1)
    assert (again["video"]["frames"] == example["video"]["frames"]).all() and again["metadata"]["row"] == 3


def test_splits_never_meet() -> None:
    seeds = {split: MovingScenesSource(split=split)[0]["metadata"]["seed"] for split in ("train", "val", "test")}
    assert len(set(seeds.values())) == 3
    test = MovingScenesSource(split="test")[1]
    tasks = [q.task for q in test["metadata"]["questions"]]
    assert len(set(tasks)) == len(tasks), "one of each task"
    with pytest.raises(OLMoInputError, match="split='dev'"):
        MovingScenesSource(split="dev")


def test_text_for_a_tokenizer() -> None:
    texts = list(moving_text_samples(2))
    assert len(texts) % 2 == 0 and all(isinstance(t, str) and t for t in texts)

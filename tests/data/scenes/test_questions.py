from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from olmo.data.scenes import Question, Scene, ScenesConfig, Task, concepts, make_question, make_questions, score
from olmo.data.scenes.dataset import question_rng
from olmo.data.scenes.questions import caption, point_text
from olmo.data.scenes.wordings import WORDINGS


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> list[tuple[Scene, Question]]:
    return [(s, q) for s in scenes for q in make_questions(s, question_rng(s.seed))]


def of_task(asked: list[tuple[Scene, Question]], task: Task) -> list[tuple[Scene, Question]]:
    found = [(s, q) for s, q in asked if q.task is task]
    assert found, f"no question of {task}"
    return found


def test_same_generator_same_questions(scenes: list[Scene]) -> None:
    for scene in scenes[:10]:
        assert make_questions(scene, question_rng(1)) == make_questions(scene, question_rng(1))


def test_one_question_is_found_where_a_scene_offers_any(scenes: list[Scene]) -> None:
    """Reading and naming are often impossible; what can be asked of every scene has a thousandth of their weight."""
    rare = ScenesConfig(task_weights={"reading": 1.0, "naming": 1.0, "position": 1.0, "json": 0.001})
    assert all(len(make_questions(scene, question_rng(7), n=1, config=rare)) == 1 for scene in scenes)


def test_reference_answers_score_right(asked: list[tuple[Scene, Question]]) -> None:
    assert all(score(q, q.answer, s) for s, q in asked)


def test_an_empty_answer_is_always_wrong(asked: list[tuple[Scene, Question]]) -> None:
    assert not any(score(q, "", s) for s, q in asked)


def test_text_is_ascii_and_filled_in(asked: list[tuple[Scene, Question]]) -> None:
    for _, q in asked:
        assert (q.prompt + q.answer).isascii() and q.answer.strip() == q.answer and q.answer
        assert "{" not in q.prompt and "}" not in q.prompt


def test_every_task_is_asked_in_six_wordings(asked: list[tuple[Scene, Question]]) -> None:
    assert {q.task for _, q in asked} == set(ScenesConfig().asked_tasks())
    for task in ScenesConfig().asked_tasks():
        wordings = {w for key, ws in WORDINGS.items() if key.split("_")[0] == task.value for w in ws}
        assert len(wordings) >= 6, task
    assert all(len(set(ws)) == len(ws) for ws in WORDINGS.values())


def test_no_two_questions_of_a_scene_are_the_same(scenes: list[Scene]) -> None:
    for scene in scenes:
        prompts = [q.prompt for q in make_questions(scene, question_rng(scene.seed))]
        assert len(set(prompts)) == len(prompts) <= 6


def test_only_the_given_tasks_are_asked(scenes: list[Scene]) -> None:
    for scene in scenes[:20]:
        questions = make_questions(scene, question_rng(0), tasks=["counting", Task.listing], n=3)
        assert {q.task for q in questions} <= {Task.counting, Task.listing} and questions


def test_styles(asked: list[tuple[Scene, Question]]) -> None:
    styles = {Task.pointing: "pointing", Task.describing: "long_caption"}
    assert all(q.style == styles.get(q.task, "user_qa") for _, q in asked)


def test_counts_are_the_truth(asked: list[tuple[Scene, Question]]) -> None:
    for scene, q in of_task(asked, Task.counting):
        things = sum(o.concept.name == q.concepts[0] for o in scene.objects)
        assert q.answer == str(things) and q.expected["count"] == things


def test_points_are_sorted_and_one_for_each_object(asked: list[tuple[Scene, Question]]) -> None:
    for scene, q in of_task(asked, Task.pointing):
        points = [(float(x), float(y)) for x, y in re.findall(r'x\d*="([\d.]+)" y\d*="([\d.]+)"', q.answer)]
        assert points == sorted(points, key=lambda p: p[0] * 10000 + p[1])
        assert sorted(points) == sorted(o.point for o in scene.of(q.concepts[0]))
        assert points or q.answer == "There are none."


def test_point_text_is_molmos() -> None:
    assert point_text([(42.0, 18.0)], "apple", "apples") == '<point x="42.0" y="18.0" alt="apple">apple</point>'
    assert point_text([(10.0, 20.0), (30.0, 44.0)], "apple", "apples") == (
        '<points x1="10.0" y1="20.0" x2="30.0" y2="44.0" alt="apples">apples</points>'
    )
    assert point_text([], "apple", "apples") == "There are none."


def test_grammar_does_not_give_the_number_away(scenes: list[Scene]) -> None:
    plural_for_one = 0
    for scene in scenes:
        q = make_question(scene, question_rng(scene.seed), Task.pointing)
        assert q is not None
        concept = next(c for c in concepts() if c.name == q.concepts[0])
        singular = q.prompt in [w.format(thing=concept.name) for w in WORDINGS["pointing_one"]]
        if q.expected["count"] != 1 and concept.name != concept.plural:
            assert not singular
        plural_for_one += q.expected["count"] == 1 and not singular
    assert plural_for_one > 5


def test_relations_are_clear_and_true(asked: list[tuple[Scene, Question]]) -> None:
    for scene, q in of_task(asked, Task.position):
        a, b = (scene.of(name) for name in q.concepts)
        assert len(a) == len(b) == 1
        side = scene.object_map.shape[0]
        dx, dy = ((a[0].centre[i] - b[0].centre[i]) / side for i in (0, 1))
        offset = {"left": -dx, "right": dx, "above": -dy, "below": dy}[q.answer]
        assert offset >= 0.10
        offers_two = ("left" in q.prompt.lower() and "right" in q.prompt) or "above" in q.prompt.lower()
        if not offers_two:
            other = abs(dy) if q.answer in ("left", "right") else abs(dx)
            assert offset >= 1.5 * other
        else:
            assert q.answer in q.prompt.lower()


def test_named_extremes_are_clear(asked: list[tuple[Scene, Question]]) -> None:
    for scene, q in of_task(asked, Task.naming):
        if len(scene.counts()) == 1:
            continue
        words = {
            "left": (0, 1),
            "right": (0, -1),
            "top": (1, 1),
            "highest": (1, 1),
            "bottom": (1, -1),
            "lowest": (1, -1),
        }
        axis, sign = next(v for w, v in words.items() if w in q.prompt)
        side = scene.object_map.shape[0]
        own = min(sign * o.centre[axis] for o in scene.of(q.answer))
        rest = min(sign * o.centre[axis] for o in scene.objects if o.concept.name != q.answer)
        assert (rest - own) / side >= 0.08


def test_listing_reading_and_caption(asked: list[tuple[Scene, Question]]) -> None:
    for scene, q in of_task(asked, Task.listing):
        assert q.answer.split(", ") == sorted({o.concept.name for o in scene.objects})
    for scene, q in of_task(asked, Task.reading):
        assert q.answer == scene.word
    for scene, q in of_task(asked, Task.describing):
        assert q.answer == caption(scene)
        assert (f"The sign says {scene.word}." in q.answer) == (scene.word is not None)


def test_absent_things_are_asked_about_rarely(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for task, none in ((Task.counting, "0"), (Task.pointing, "There are none.")):
        answers = Counter(make_question(s, rng, task).answer for s in scenes * 4)
        assert 0.01 < answers[none] / (4 * len(scenes)) < 0.11


def test_absent_share_is_the_options(scenes: list[Scene]) -> None:
    config = ScenesConfig(absent_share=1.0)
    for scene in scenes[:10]:
        for q in make_questions(scene, question_rng(0), tasks=[Task.counting], n=2, config=config):
            assert q.answer == "0" and q.concepts[0] not in scene.counts()

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from olmo.data.scenes import Question, Scene, Task, make_scene
from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.questions import point_text
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.data.scenes.scoring import score
from olmo.eval.metrics.scene import points_inside
from olmo.eval.scenes_eval import (
    SPARE_TOKENS,
    Item,
    answer_items,
    evaluate_scenes,
    grey_picture,
    token_budgets,
)
from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.outputs import OLMoGenerateOutput


def key(input_ids: torch.Tensor, images: torch.Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(input_ids[input_ids >= 0].tolist()), images.numpy().tobytes()


class Oracle(Molmo):
    """Knows the answer to each picture and prompt it was told of, and records what it is asked."""

    def __init__(
        self, config: MolmoConfig, items: list[Item], fixed: str | None = None, scenes: ScenesConfig | None = None
    ) -> None:
        super().__init__(config)
        self.fixed = fixed
        self.calls: list[dict[str, Any]] = []
        preprocess = config.build_preprocessor(for_inference=True)
        self.answers = {}
        for seed, q in items:
            messages = q.messages(with_answer=False)
            example = preprocess({"image": make_scene(seed, scenes).image, "messages": messages, "style": q.style})
            self.answers[key(example["input_ids"], example["images"])] = q.answer

    def generate(self, input_ids: torch.Tensor, images: torch.Tensor, **options: Any) -> OLMoGenerateOutput:
        self.calls.append({"images": images, "input_ids": input_ids, **options})
        if self.fixed is not None:
            texts = [self.fixed] * len(input_ids)
        else:
            texts = [self.answers.get(key(i, p), "no idea") for i, p in zip(input_ids, images, strict=True)]
        return OLMoGenerateOutput(input_ids, texts)


def test_truth_scores_one_on_every_task(tiny_config: MolmoConfig, items: list[Item]) -> None:
    report = evaluate_scenes(Oracle(tiny_config, items), items)
    expected = {"pointing_near", *(t.value for t in ScenesConfig().asked_tasks())}
    assert expected <= set(report.tasks) <= expected | {"counting_absent", "pointing_absent"}
    assert {name: r.accuracy for name, r in report.tasks.items()} == dict.fromkeys(report.tasks, 1.0)
    asked = sum(r.n for name, r in report.tasks.items() if name != "pointing_near")
    assert (asked, report.n_scenes, report.is_blind) == (len(items), len({seed for seed, _ in items}), False)
    assert sum(r.n for r in report.counting_by_count.values()) == report.tasks["counting"].n
    assert sum(r.n for r in report.pointing_by_objects.values()) == report.tasks["pointing"].n
    assert 0 not in report.counting_by_count and 0 not in report.pointing_by_objects
    assert report.confusions == ()
    n_pointing = sum(r.n for name, r in report.tasks.items() if name in ("pointing", "pointing_absent"))
    assert {name: r.n for name, r in report.points.items()} == {"pointing": n_pointing}
    assert report.points["pointing"].asdict() | {"interval": []} == {
        "n": n_pointing, "precision": 1.0, "recall": 1.0, "f1": 1.0, "interval": [],
    }  # fmt: skip


WIDE = ScenesConfig(
    concept_set="wide", art=["noto", "fluent"], photo_share=0.35, max_count=10, max_objects=12, min_object_share=0.12,
    task_weights={"pointing_several": 1, "follow_up": 1, "json": 1},
)  # fmt: skip


def test_wide_tasks_are_asked_with_what_was_said_before(tiny_config: MolmoConfig) -> None:
    items = ScenesDataset(WIDE).evaluation_items(4)
    oracle = Oracle(tiny_config, items, scenes=WIDE)
    report = evaluate_scenes(oracle, items, WIDE)
    assert set(report.tasks) == {"json", "pointing_several", "pointing_several_near", "follow_up"}
    assert all(r.accuracy == 1 for r in report.tasks.values())
    assert report.figure("pointing_several_f1") == 1.0
    decode = oracle.tokenizer.decode
    prompts = [decode([i for i in ids if i >= 0]) for call in oracle.calls for ids in call["input_ids"].tolist()]
    asked = [q for _, q in items if q.task is Task.follow_up]
    assert asked
    for question in asked:
        said = [text for turn in question.history for text in turn]
        assert any(all(text in prompt for text in [*said, question.prompt]) for prompt in prompts), question
    blind = evaluate_scenes(oracle, items, WIDE, blind=True)
    assert blind.figure("follow_up") == 0.0 and blind.figure("pointing_several_f1") == 0.0


def test_blind_oracle_knows_nothing_because_all_is_grey(tiny_config: MolmoConfig, items: list[Item]) -> None:
    oracle = Oracle(tiny_config, items)
    report = evaluate_scenes(oracle, items, blind=True)
    assert report.is_blind
    assert all(r.n_right == 0 for r in report.tasks.values())
    pixels = torch.cat([call["images"] for call in oracle.calls])  # [questions, 1, 3, H, W]
    assert len(pixels) == len(items)
    assert torch.equal(pixels, pixels[:1, :, :, :1, :1].expand_as(pixels)), "one value a channel, the same everywhere"
    spec = tiny_config.image_spec
    assert spec is not None
    grey = (128 / 255 - np.array(spec.mean)) / np.array(spec.std)
    assert pixels[0, 0, :, 0, 0].tolist() == pytest.approx(grey.tolist(), abs=1e-5)


def test_grey_picture_keeps_the_size() -> None:
    picture = grey_picture((30, 20))
    assert picture.size == (30, 20)
    assert picture.getcolors() == [(600, (128, 128, 128))]


def test_one_answer_for_everything_is_right_as_often_as_it_is_true(tiny_config: MolmoConfig, items: list[Item]) -> None:
    report = evaluate_scenes(Oracle(tiny_config, items, fixed="2"), items)
    true = sum(q.task is Task.counting and q.answer == "2" for _, q in items)
    assert true > 0
    assert report.tasks["counting"].n_right == true
    assert {n: r.accuracy for n, r in report.counting_by_count.items()} == {
        n: float(n == 2) for n in report.counting_by_count
    }
    assert all(r.n_right == 0 for name, r in report.tasks.items() if name != "counting")
    wrong = Counter({(c.expected, c.answered): c.n for c in report.confusions})
    assert wrong == Counter((q.answer, "2") for _, q in items if q.task is Task.naming)
    assert [c.n for c in report.confusions] == sorted((c.n for c in report.confusions), reverse=True)


def test_absent_things_are_counted_apart(tiny_config: MolmoConfig) -> None:
    questions = [
        Question(Task.counting, "How many cats?", "0", ("cat",), {"count": 0}, "user_qa"),
        Question(Task.pointing, "Point to the cats.", "There are none.", ("cat",), {"count": 0}, "pointing"),
    ]
    report = evaluate_scenes(Oracle(tiny_config, [], fixed="There are none."), [(7, q) for q in questions])
    found = {name: (r.n, r.n_right) for name, r in report.tasks.items()}
    assert found == {"counting_absent": (1, 0), "pointing_absent": (1, 1)}
    assert report.counting_by_count == report.pointing_by_objects == {}


def test_a_small_untrained_model(tiny_model: Molmo, items: list[Item]) -> None:
    some, seen = items[:8], []
    first = evaluate_scenes(tiny_model, some, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    second = evaluate_scenes(tiny_model, some, batch_size=3)
    assert first == second, "same model, same questions, same report"
    assert first.asdict() == json.loads(json.dumps(first.asdict()))
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_answers_come_in_the_order_of_the_questions(tiny_config: MolmoConfig, items: list[Item]) -> None:
    answered = answer_items(Oracle(tiny_config, items), items, batch_size=5)
    assert [(a.seed, a.question) for a in answered] == items
    assert [a.text for a in answered] == [q.answer for _, q in items]


def test_batches_hold_one_task_and_every_question_once(tiny_config: MolmoConfig, items: list[Item]) -> None:
    oracle = Oracle(tiny_config, items)
    answer_items(oracle, items, batch_size=5)
    budgets = token_budgets(oracle, [q for _, q in items])
    asked = Counter({budget: 0 for budget in budgets.values()})
    for call in oracle.calls:
        assert 1 <= len(call["images"]) <= 5
        asked[call["max_new_tokens"]] += len(call["images"])
    expected = Counter(budgets[q.task] for _, q in items)
    assert asked == expected


def test_budget_leaves_room_for_the_longest_answer(tiny_model: Molmo, items: list[Item]) -> None:
    questions = [q for _, q in items]
    budgets = token_budgets(tiny_model, questions)
    for q in questions:
        assert len(tiny_model.tokenizer.encode(" " + q.answer)) + 1 + SPARE_TOKENS <= budgets[q.task]
    assert budgets[Task.counting] < budgets[Task.pointing]


def pointing(scene: Scene, name: str) -> Question:
    points = sorted(o.point for o in scene.of(name))
    return Question(Task.pointing, "?", "", (name,), {"count": len(points), "points": points}, "pointing")


def text(points: list[tuple[float, float]]) -> str:
    return point_text(points, "x", "x")


def test_points_inside_has_no_slack() -> None:
    scene = make_scene(3)
    name = max(scene.counts(), key=lambda n: scene.counts()[n])
    q = pointing(scene, name)
    points = q.expected["points"]
    assert points_inside(q, text(points), scene)
    assert points_inside(q, text(points[::-1]), scene)
    side = scene.object_map.shape[0]
    # From the first point leftwards to the first pixel off its object.
    x, y = points[0]
    row = scene.object_map[int(y / 100 * side + 1e-6)]
    column = int(x / 100 * side + 1e-6)
    number = row[column]
    off = next(c for c in range(column, -1, -1) if row[c] != number)
    beside = [((off + 0.5) / side * 100, y), *points[1:]]
    assert score(q, text(beside), scene), "a pixel beside is near enough for the score"
    assert not points_inside(q, text(beside), scene)


def test_points_inside_wants_each_object_once() -> None:
    scene, name = next((s, n) for s in map(make_scene, range(99)) for n, c in s.counts().items() if c >= 2)
    q = pointing(scene, name)
    points = q.expected["points"]
    wrong = [points[:-1], [*points, points[0]], [points[0], *points[:-1]], [(*points[0][:1], 140.0), *points[1:]], []]
    assert not any(points_inside(q, text(w), scene) for w in wrong)


def test_nothing_to_evaluate_is_an_error(tiny_model: Molmo, items: list[Item]) -> None:
    with pytest.raises(OLMoInputError, match="at least 1 scene"):
        evaluate_scenes(tiny_model, [])
    with pytest.raises(OLMoInputError, match="batch_size=0"):
        evaluate_scenes(tiny_model, items, batch_size=0)

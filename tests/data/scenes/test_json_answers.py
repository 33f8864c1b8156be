from __future__ import annotations

import json

import numpy as np

from olmo.data.scenes import ScenesConfig, ScenesDataset, Task, make_question, score
from olmo.data.scenes.json_answers import json_answer, parsed


def test_answers_parse_to_the_truth() -> None:
    data = ScenesDataset(ScenesConfig(task_weights={"json": 1.0}), size=30)
    seen = set()
    for i in range(len(data)):
        scene = data.scene(i)
        wording, answer, value = json_answer(scene, np.random.default_rng(i))
        seen.add(wording)
        assert json.loads(answer) == value and "\n" not in answer and answer.isascii()
        counts = value if wording == "json_counts" else value["things"]
        assert counts == scene.counts()
    assert seen == {"json_counts", "json_scene"}


def test_a_recipe_can_ask_for_json_alone() -> None:
    example = ScenesDataset(ScenesConfig(task_weights={"json": 1.0}), size=1)[0]
    assert set(example["styles"]) == {"json"}
    assert all(isinstance(parsed(turns[-1]["content"]), dict) for turns in example["message_list"])


def test_json_is_scored_by_its_value() -> None:
    scene = ScenesDataset(ScenesConfig(), size=1).scene(0)
    question = make_question(scene, np.random.default_rng(0), Task.json)
    assert question is not None and score(question, question.answer, scene)
    assert score(question, question.answer.replace(": ", ":  "), scene)
    assert not score(question, question.answer[:-1], scene)
    assert not score(question, "{}", scene)

"""Scenes that no split holds, as a source: the questions that `ScenesDataset.evaluation_items` asks, row by row."""

from __future__ import annotations

from typing import Any

from olmo.data.row_source import RowSource
from olmo.data.scenes.dataset import FIRST_EVALUATION_SEED, MAX_SIZE, question_rng
from olmo.data.scenes.questions import make_question
from olmo.data.scenes.scene import make_scene
from olmo.data.scenes.scenes_config import ScenesConfig


class SceneTest(RowSource):
    """A scene a row, with one question of each task it allows.

    Args:
        config: how scenes are drawn.
        name: what metrics and messages call this source.
    """

    def __init__(self, config: ScenesConfig | None = None, name: str = "scenes") -> None:
        self.name, self.config = name, config or ScenesConfig()

    def __len__(self) -> int:
        return MAX_SIZE

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        scene = make_scene(FIRST_EVALUATION_SEED + row, self.config)
        rng = question_rng(scene.seed)
        drawn = [make_question(scene, rng, task, self.config.absent_share) for task in self.config.asked_tasks()]
        questions = [question for question in drawn if question is not None]
        return {
            "image": scene.image,
            "message_list": [q.messages() for q in questions],
            "styles": [q.style for q in questions],
            "metadata": {"seed": scene.seed, "scene": scene, "questions": questions},
        }

"""Moving scenes as a dataset: training examples by index, and clips for evaluation that no split holds.

Seeds are divided as those of the pictures are, see `olmo.data.scenes.dataset`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from olmo.data.row_source import RowSource
from olmo.data.scenes.dataset import FIRST_EVALUATION_SEED, FIRST_SEED, MAX_SIZE
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.moving.moving_scene import MovingScene, make_moving_scene
from olmo.data.scenes.moving.questions import MovingQuestion, make_moving_question, make_moving_questions
from olmo.exceptions import OLMoInputError

QUESTION_SALT = 37


def moving_question_rng(seed: int) -> np.random.Generator:
    """The generator that draws the questions about the clip of `seed`."""
    return np.random.default_rng([seed, QUESTION_SALT])


class MovingScenesSource(RowSource):
    """Clips with questions by row; every row is another clip.

    Args:
        config: how clips and questions are drawn.
        split: "train", "val" or "test"; their seeds never meet. A row of the test has one question of each task.
        name: what metrics and messages call this source.
    """

    def __init__(
        self, config: MovingScenesConfig | None = None, split: str = "train", name: str = "moving_scenes"
    ) -> None:
        first = {**FIRST_SEED, "test": FIRST_EVALUATION_SEED}
        if split not in first:
            raise OLMoInputError(f"split={split!r} is not known; use one of {', '.join(map(repr, first))}")
        self.name, self.split, self.config = name, split, config or MovingScenesConfig()
        self._first_seed = first[split]

    def __len__(self) -> int:
        return MAX_SIZE

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        scene = make_moving_scene(self._first_seed + row, self.config)
        questions = self._questions(scene)
        return {
            "video": {"frames": scene.frames, "seconds": scene.seconds},
            "message_list": [q.messages() for q in questions],
            "styles": [q.style for q in questions],
            "metadata": {"seed": scene.seed, "moving_scene": scene, "questions": questions},
        }

    def _questions(self, scene: MovingScene) -> list[MovingQuestion]:
        if self.split == "test":
            return one_of_each_task(scene, self.config)
        return make_moving_questions(scene, moving_question_rng(scene.seed), config=self.config)


def one_of_each_task(scene: MovingScene, config: MovingScenesConfig) -> list[MovingQuestion]:
    """The questions of an evaluation about a clip: one of each task with a weight, where the clip allows it."""
    rng = moving_question_rng(scene.seed)
    drawn = [make_moving_question(scene, rng, task) for task in config.asked_tasks()]
    return [question for question in drawn if question is not None]


def moving_text_samples(n: int, config: MovingScenesConfig | None = None) -> Iterator[str]:
    """Prompts and answers about the first `n` training clips, for training a tokenizer."""
    config = config or MovingScenesConfig()
    for seed in range(n):
        for question in make_moving_questions(
            make_moving_scene(seed, config), moving_question_rng(seed), config=config
        ):
            yield question.prompt
            yield question.answer

"""Scenes as a dataset: training examples by index, evaluation questions, text for a tokenizer.

Seeds: training scene i has seed i; validation scene i has seed 1_000_000_007 + i; evaluation items come from
2_000_000_011 on. The ranges cannot meet, because an index is below 1_000_000_000.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from olmo.data.scenes.questions import Question, make_question, make_questions
from olmo.data.scenes.scene import Scene, make_scene
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.exceptions import OLMoInputError

MAX_SIZE = 1_000_000_000
FIRST_SEED = {"train": 0, "val": 1_000_000_007}
FIRST_EVALUATION_SEED = 2_000_000_011
QUESTION_SALT = 23


def question_rng(seed: int) -> np.random.Generator:
    """The generator that draws the questions of the scene of `seed`."""
    return np.random.default_rng([seed, QUESTION_SALT])


class ScenesDataset:
    """Scenes with questions, by index; example i is always the same.

    Args:
        config: how pictures and questions are drawn.
        split: "train" or "val"; their seeds never meet.
        size: number of examples; None means as many as the range of seeds holds (1_000_000_000).
    """

    def __init__(self, config: ScenesConfig | None = None, split: str = "train", size: int | None = None) -> None:
        if split not in FIRST_SEED:
            raise OLMoInputError(f"split={split!r} is not known; use one of {', '.join(map(repr, FIRST_SEED))}")
        if size is not None and not 0 <= size <= MAX_SIZE:
            raise OLMoInputError(f"size={size} is out of range; allowed: 0 to {MAX_SIZE}, or None")
        self.config = config or ScenesConfig()
        self.split = split
        self.size = MAX_SIZE if size is None else size

    def __len__(self) -> int:
        return self.size

    def seed_of(self, index: int) -> int:
        """Seed of example `index`."""
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside this dataset of {self.size} examples")
        return FIRST_SEED[self.split] + index

    def scene(self, index: int) -> Scene:
        """Scene of example `index`."""
        return make_scene(self.seed_of(index), self.config)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One training example.

        Returns:
            `image` (PIL, RGB), `message_list` (one conversation for each question), `styles` (one for each
            conversation) and `metadata` with `seed`, `scene` (the `Scene`) and `questions` (a list of `Question`).
        """
        scene = self.scene(index)
        questions = make_questions(scene, question_rng(scene.seed), config=self.config)
        return {
            "image": scene.image,
            "message_list": [q.messages() for q in questions],
            "styles": [q.style for q in questions],
            "metadata": {"seed": scene.seed, "scene": scene, "questions": questions},
        }

    def evaluation_items(self, n: int) -> list[tuple[int, Question]]:
        """Questions about `n` scenes that neither split holds: one of each task a scene allows.

        Returns:
            (seed, question) pairs; `make_scene(seed, config)` gives the picture.
        """
        items = []
        for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + n):
            scene, rng = make_scene(seed, self.config), question_rng(seed)
            for task in self.config.asked_tasks():
                question = make_question(scene, rng, task, self.config.absent_share)
                if question is not None:
                    items.append((seed, question))
        return items


def all_text_samples(n: int, config: ScenesConfig | None = None) -> Iterator[str]:
    """Prompts and answers of the first `n` training scenes, for training a tokenizer."""
    config = config or ScenesConfig()
    for seed in range(n):
        for question in make_questions(make_scene(seed, config), question_rng(seed), config=config):
            yield from (text for turn in question.history for text in turn)
            yield question.prompt
            yield question.answer

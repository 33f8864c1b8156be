"""Evaluates a model on moving scenes: asks, decodes greedily in batches, scores from the ground truth.

Besides the clip as it is, a model may be shown uniform grey, which tells how much the wording gives away, or the same
frames in another order, which tells whether it reads time at all. Works with any VideoOlmo; prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.config import ConfigEnum
from olmo.data.scenes.dataset import FIRST_EVALUATION_SEED
from olmo.data.scenes.moving.dataset import one_of_each_task
from olmo.data.scenes.moving.moving_config import MovingScenesConfig, MovingTask
from olmo.data.scenes.moving.moving_scene import MovingScene, make_moving_scene
from olmo.data.scenes.moving.questions import MovingQuestion, is_right
from olmo.engine.bulk import BulkAnswer, answer_all
from olmo.eval.report import TaskResult
from olmo.eval.scenes_eval import GREY, SPARE_TOKENS
from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase
from olmo.models.feature_cache import features_kept

SHUFFLE_SALT = 41
QA = (MovingTask.actor, MovingTask.counting, MovingTask.when)
"""Tasks that count as question answering."""

MovingItem = tuple[int, MovingQuestion]
"""Seed of the clip and a question about it."""


class View(ConfigEnum):
    """What the model is shown."""

    clip = "clip"
    grey = "grey"
    shuffled = "shuffled"


@dataclass(frozen=True)
class MovingReport:
    """Result of an evaluation on moving scenes.

    Attributes:
        n_clips: number of clips.
        view: what was shown.
        tasks: result by task, and `qa` for those of `QA` together.
        forms: result by form of question, `order_first` say.
        order_chance: share of the questions about order that a guess gets right which knows what happens, and not
            when; 0 to 1.
    """

    n_clips: int
    view: View
    tasks: dict[str, TaskResult]
    forms: dict[str, TaskResult]
    order_chance: float | None

    def asdict(self) -> dict[str, Any]:
        """Everything as numbers, strings and dicts, fit for JSON."""
        return {
            "n_clips": self.n_clips,
            "view": self.view.value,
            "tasks": {name: result.asdict() for name, result in self.tasks.items()},
            "forms": {name: result.asdict() for name, result in self.forms.items()},
            "order_chance": None if self.order_chance is None else round(self.order_chance, 4),
        }


def moving_items(n: int, config: MovingScenesConfig | None = None) -> list[MovingItem]:
    """Questions about `n` clips that no split holds: one of each task that a clip allows."""
    config = config or MovingScenesConfig()
    seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + n)
    return [
        (seed, question) for seed in seeds for question in one_of_each_task(make_moving_scene(seed, config), config)
    ]


def evaluate_moving(
    model: ModelBase,
    items: Sequence[MovingItem],
    config: MovingScenesConfig | None = None,
    view: View = View.clip,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> MovingReport:
    """Ask a model questions about clips and count the right answers.

    Args:
        model: takes video; it is put into eval mode for the time of each batch.
        items: seeds and questions, as `moving_items` returns them.
        config: how the clips of the seeds are drawn; the one the items were made with.
        view: what is shown.
        batch_size: questions decoded together.
        progress: is called with (questions done, questions in all).

    Raises:
        OLMoInputError: no items.
    """
    if not items:
        raise OLMoInputError("there are no questions to evaluate on; ask for at least 1 clip")
    scenes = {seed: make_moving_scene(seed, config) for seed in dict.fromkeys(seed for seed, _ in items)}
    longest = max(len(model.tokenizer.encode(" " + question.answer)) for _, question in items)
    is_right_at: dict[int, bool] = {}

    def take(answer: BulkAnswer) -> None:
        is_right_at[answer.index] = is_right(items[answer.index][1], answer.text)
        if progress is not None:
            progress(len(is_right_at), len(items))

    requests = (_request(question, scenes[seed], view) for seed, question in items)
    limit = {"max_new_tokens": longest + 1 + SPARE_TOKENS}
    with features_kept(model):  # every clip comes back for another task
        answer_all(model, requests, generation=limit, batch_size=batch_size, on_done=take)
    chances = [_chance(q, scenes[seed]) for seed, q in items if q.task is MovingTask.order]
    return MovingReport(
        n_clips=len(scenes),
        view=view,
        tasks=_by_task([(question, is_right_at[i]) for i, (_, question) in enumerate(items)]),
        forms=_counted([(question.form, is_right_at[i]) for i, (_, question) in enumerate(items)]),
        order_chance=sum(chances) / len(chances) if chances else None,
    )


def shown_frames(scene: MovingScene, view: View) -> np.ndarray:
    """uint8 `[T, H, W, 3]`."""
    if view is View.grey:
        return np.full_like(scene.frames, GREY)
    if view is View.shuffled:
        return scene.frames[np.random.default_rng([scene.seed, SHUFFLE_SALT]).permutation(scene.n_frames)]
    return scene.frames


def _request(question: MovingQuestion, scene: MovingScene, view: View) -> dict[str, Any]:
    video = {"frames": shown_frames(scene, view), "seconds": scene.seconds}
    return {"video": video, "messages": question.messages(with_answer=False), "style": question.style}


def _chance(question: MovingQuestion, scene: MovingScene) -> float:
    """Chance of a guess about order that knows the events."""
    return 1 / (len(question.choices) or len(scene.actors))


def _by_task(marks: Sequence[tuple[MovingQuestion, bool]]) -> dict[str, TaskResult]:
    found = _counted([(question.task.value, mark) for question, mark in marks])
    qa = [mark for question, mark in marks if question.task in QA]
    ordered: Mapping[str, TaskResult] = {t.value: found[t.value] for t in MovingTask if t.value in found}
    return {**ordered, "qa": TaskResult(n=len(qa), n_right=sum(qa))} if qa else dict(ordered)


def _counted(marks: Sequence[tuple[str, bool]]) -> dict[str, TaskResult]:
    groups: dict[str, list[bool]] = {}
    for name, mark in marks:
        groups.setdefault(name, []).append(mark)
    return {name: TaskResult(n=len(group), n_right=sum(group)) for name, group in sorted(groups.items())}

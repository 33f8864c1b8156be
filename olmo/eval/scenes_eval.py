"""Evaluates a model on scenes: asks, decodes greedily in batches, scores from the ground truth.

The blind run asks the same questions about uniform grey, which shows how much the wording alone gives away. Works with
any `ModelBase`; prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from olmo.data.scenes.questions import Question
from olmo.data.scenes.scene import Scene, make_scene
from olmo.data.scenes.scenes_config import ScenesConfig, Task
from olmo.data.scenes.scoring import normalise
from olmo.engine.bulk import BulkAnswer, answer_all
from olmo.eval.metrics.scene import pointing_scores, reported_task, scene_marks
from olmo.eval.report import Confusion, PointsResult, ScenesReport, TaskResult
from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase
from olmo.models.feature_cache import features_kept

GREY = (128, 128, 128)
# Tokens an answer may take beyond the longest reference answer of its task. A model that does not stop would otherwise
# hold up its whole batch to the end of the context.
SPARE_TOKENS = 16
MAX_CONFUSIONS = 20
# A model that babbles must not fill the report.
MAX_NAME_CHARACTERS = 40

Item = tuple[int, Question]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer.

    Attributes:
        seed: seed of the scene.
        question: what was asked.
        text: what the model answered.
        is_right: by `olmo.data.scenes.scoring.score`.
        is_inside: also every point inside its object, without slack. The same as `is_right` where none are asked for.
        points: `precision`, `recall` and `f1` of the points; None where none are asked for.
    """

    seed: int
    question: Question
    text: str
    is_right: bool
    is_inside: bool
    points: Mapping[str, float] | None = None


def evaluate_scenes(
    model: ModelBase,
    items: Sequence[Item],
    config: ScenesConfig | None = None,
    batch_size: int = 32,
    blind: bool = False,
    progress: Progress | None = None,
) -> ScenesReport:
    """Ask a model questions about scenes and count the right answers.

    Args:
        model: the model; it is put into eval mode for the time of each batch.
        items: (seed, question) pairs, as `ScenesDataset.evaluation_items` returns them.
        config: how the scenes of the seeds are drawn; the one the items were made with.
        batch_size: questions decoded together.
        blind: replace each picture by uniform grey of its size.
        progress: is called with (questions done, questions in all).

    Raises:
        OLMoInputError: no items, or a batch size below 1.
    """
    return summarise(answer_items(model, items, config, batch_size, blind, progress), blind)


def answer_items(
    model: ModelBase,
    items: Sequence[Item],
    config: ScenesConfig | None = None,
    batch_size: int = 32,
    blind: bool = False,
    progress: Progress | None = None,
) -> list[Answered]:
    """The answers behind `evaluate_scenes`, in the order of `items`; same arguments."""
    if not items:
        raise OLMoInputError("there are no questions to evaluate on; ask for at least 1 scene")
    scenes = {seed: make_scene(seed, config) for seed in dict.fromkeys(seed for seed, _ in items)}
    budgets = token_budgets(model, (question for _, question in items))
    answered: dict[int, Answered] = {}
    with features_kept(model):  # every picture comes back for another task
        _answer_all(model, items, scenes, budgets, batch_size, blind, answered, progress)
    return [answered[i] for i in range(len(items))]


def _answer_all(
    model: ModelBase,
    items: Sequence[Item],
    scenes: Mapping[int, Scene],
    budgets: Mapping[Task, int],
    batch_size: int,
    blind: bool,
    answered: dict[int, Answered],
    progress: Progress | None,
) -> None:
    """Answer task after task, into `answered` by index."""
    for task, budget in budgets.items():  # answers of one task are about equally long
        of_task = [i for i, (_, question) in enumerate(items) if question.task is task]

        def take(answer: BulkAnswer, of_task: list[int] = of_task) -> None:
            i = of_task[answer.index]
            answered[i] = _judge(items[i], answer.text, scenes[items[i][0]])
            if progress is not None:
                progress(len(answered), len(items))

        requests = (_request(items[i], scenes[items[i][0]], blind) for i in of_task)
        answer_all(model, requests, generation={"max_new_tokens": budget}, batch_size=batch_size, on_done=take)


def _request(item: Item, scene: Scene, blind: bool) -> dict[str, Any]:
    question = item[1]
    picture = grey_picture(scene.image.size) if blind else scene.image
    return {"image": picture, "messages": question.messages(with_answer=False), "style": question.style}


def token_budgets(model: ModelBase, questions: Iterable[Question]) -> dict[Task, int]:
    """Most new tokens for each task: the longest reference answer, its end token and some to spare."""
    encode = model.tokenizer.encode
    longest: dict[Task, int] = {}
    for question in questions:
        longest[question.task] = max(longest.get(question.task, 0), len(encode(" " + question.answer)))
    return {task: length + 1 + SPARE_TOKENS for task, length in longest.items()}


def grey_picture(size: tuple[int, int]) -> Image.Image:
    """Uniform grey of `size` (width, height)."""
    return Image.new("RGB", size, GREY)


def _judge(item: Item, text: str, scene: Scene) -> Answered:
    seed, question = item
    is_right, is_inside = scene_marks(question, text, scene)
    return Answered(seed, question, text, is_right, is_inside, pointing_scores(question, text, scene))


def summarise(answered: Sequence[Answered], blind: bool) -> ScenesReport:
    """Count right answers by task, by true count and by number of objects, and collect wrong names."""
    tasks: dict[str, list[bool]] = {}
    by_count: dict[int, list[bool]] = {}
    by_objects: dict[int, list[bool]] = {}
    points: dict[str, list[Mapping[str, float]]] = {}
    confusions: Counter[tuple[str, str]] = Counter()
    for a in answered:
        task, name = a.question.task, reported_task(a.question)
        tasks.setdefault(name, []).append(a.is_inside)
        if a.points is not None:
            points.setdefault(task.value, []).append(a.points)
        if name != task.value:  # about things that are not there
            continue
        if task is Task.counting:
            by_count.setdefault(a.question.expected["count"], []).append(a.is_right)
        elif task is Task.pointing:
            by_objects.setdefault(a.question.expected["count"], []).append(a.is_inside)
        elif task is Task.naming and not a.is_right:
            confusions[a.question.answer, normalise(a.text)[:MAX_NAME_CHARACTERS]] += 1
        if task in (Task.pointing, Task.pointing_several):
            tasks.setdefault(f"{name}_near", []).append(a.is_right)
    order = [v for t in Task for v in (t.value, f"{t.value}_near", f"{t.value}_absent")]
    # Ties are broken by name, so that the order does not hang on the order of the questions.
    ranked = sorted(confusions.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_CONFUSIONS]
    return ScenesReport(
        n_scenes=len({a.seed for a in answered}),
        is_blind=blind,
        tasks={name: _result(tasks[name]) for name in order if name in tasks},
        counting_by_count={k: _result(by_count[k]) for k in sorted(by_count)},
        pointing_by_objects={k: _result(by_objects[k]) for k in sorted(by_objects)},
        points={name: PointsResult.mean(points[name]) for name in order if name in points},
        confusions=tuple(Confusion(expected, text, n) for (expected, text), n in ranked),
    )


def _result(marks: Sequence[bool]) -> TaskResult:
    return TaskResult(n=len(marks), n_right=sum(marks))

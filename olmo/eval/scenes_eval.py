"""Evaluates a model on scenes: asks, decodes greedily in batches, scores from the ground truth.

The blind run asks the same questions about uniform grey, which shows how much the wording alone gives away. Works with
any `ModelBase`; prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from olmo.data.scenes.questions import Question
from olmo.data.scenes.scene import Scene, make_scene, percent_to_px
from olmo.data.scenes.scenes_config import ScenesConfig, Task
from olmo.data.scenes.scoring import normalise, read_points, score
from olmo.eval.report import Confusion, ScenesReport, TaskResult
from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase

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
        is_inside: pointing only: every point inside its object, without slack. Elsewhere the same as `is_right`.
    """

    seed: int
    question: Question
    text: str
    is_right: bool
    is_inside: bool


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
        progress: is called with (questions done, questions in all) after each batch.

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
    if batch_size < 1:
        raise OLMoInputError(f"batch_size={batch_size} is out of range; allowed: 1 and up")
    scenes = {seed: make_scene(seed, config) for seed in dict.fromkeys(seed for seed, _ in items)}
    budgets = token_budgets(model, (question for _, question in items))
    preprocess = model.config.build_preprocessor(for_inference=True)
    answered: dict[int, Answered] = {}
    for batch in batches(items, batch_size):
        pictures = [scenes[items[i][0]].image for i in batch]
        if blind:
            pictures = [grey_picture(p.size) for p in pictures]
        questions = [items[i][1] for i in batch]
        examples = [
            preprocess({"image": p, "prompt": q.prompt, "style": q.style})
            for p, q in zip(pictures, questions, strict=True)
        ]
        texts = greedy_answers(model, examples, budgets[questions[0].task])
        for i, text in zip(batch, texts, strict=True):
            answered[i] = _judge(items[i], text, scenes[items[i][0]])
        if progress is not None:
            progress(len(answered), len(items))
    return [answered[i] for i in range(len(items))]


def greedy_answers(model: ModelBase, examples: Sequence[dict[str, Any]], max_new_tokens: int) -> list[str]:
    """Greedy answers to preprocessed examples, decoded as one batch."""
    batch = model.config.build_collator(include_metadata=False)(examples)
    inputs: dict[str, Any] = {name: value.to(model.device) for name, value in batch.items()}
    return model.generate(**inputs, max_new_tokens=max_new_tokens).text


def batches(items: Sequence[Item], batch_size: int) -> Iterator[list[int]]:
    """Indices of `items` in batches of one task each, because answers of one task are about equally long."""
    for task in Task:
        of_task = [i for i, (_, question) in enumerate(items) if question.task is task]
        for start in range(0, len(of_task), batch_size):
            yield of_task[start : start + batch_size]


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


def points_inside(question: Question, text: str, scene: Scene) -> bool:
    """True when the points of `text` lie inside the objects asked for, one in each, none missing and none extra.

    Unlike in `score`, a point beside the silhouette is wrong however near it is.
    """
    points = read_points(text)
    if len(points) != question.expected["count"] or any(not 0 <= v <= 100 for p in points for v in p):
        return False
    height, width = scene.object_map.shape
    hit = {int(scene.object_map[percent_to_px(y, height), percent_to_px(x, width)]) for x, y in points}
    return hit == {k for k, o in enumerate(scene.objects, start=1) if o.concept.name == question.concepts[0]}


def _judge(item: Item, text: str, scene: Scene) -> Answered:
    seed, question = item
    is_right = is_inside = score(question, text, scene)
    if question.task is Task.pointing and question.expected["count"]:
        is_inside = points_inside(question, text, scene)
    return Answered(seed, question, text, is_right, is_inside)


def summarise(answered: Sequence[Answered], blind: bool) -> ScenesReport:
    """Count right answers by task, by true count and by number of objects, and collect wrong names."""
    tasks: dict[str, list[bool]] = {}
    by_count: dict[int, list[bool]] = {}
    by_objects: dict[int, list[bool]] = {}
    confusions: Counter[tuple[str, str]] = Counter()
    for a in answered:
        task, name = a.question.task, a.question.task.value
        if task in (Task.counting, Task.pointing) and not a.question.expected["count"]:
            name += "_absent"
        elif task is Task.counting:
            by_count.setdefault(a.question.expected["count"], []).append(a.is_right)
        elif task is Task.pointing:
            by_objects.setdefault(a.question.expected["count"], []).append(a.is_inside)
            tasks.setdefault("pointing_near", []).append(a.is_right)
        elif task is Task.naming and not a.is_right:
            confusions[a.question.answer, normalise(a.text)[:MAX_NAME_CHARACTERS]] += 1
        tasks.setdefault(name, []).append(a.is_inside)
    order = [v for t in Task for v in (t.value, f"{t.value}_near", f"{t.value}_absent")]
    # Ties are broken by name, so that the order does not hang on the order of the questions.
    ranked = sorted(confusions.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_CONFUSIONS]
    return ScenesReport(
        n_scenes=len({a.seed for a in answered}),
        is_blind=blind,
        tasks={name: _result(tasks[name]) for name in order if name in tasks},
        counting_by_count={k: _result(by_count[k]) for k in sorted(by_count)},
        pointing_by_objects={k: _result(by_objects[k]) for k in sorted(by_objects)},
        confusions=tuple(Confusion(expected, text, n) for (expected, text), n in ranked),
    )


def _result(marks: Sequence[bool]) -> TaskResult:
    return TaskResult(n=len(marks), n_right=sum(marks))

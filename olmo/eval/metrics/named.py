"""Metrics by name: each scores one answer against its reference, and the means over a data set are its figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from olmo.data.scenes.moving.questions import is_right
from olmo.eval.metrics import vqa
from olmo.eval.metrics.anls import anls
from olmo.eval.metrics.caption import CaptionJudge, cap_f1, cap_scores, word_overlap
from olmo.eval.metrics.choice import choose_option, nearest_option
from olmo.eval.metrics.clock import clock_scores
from olmo.eval.metrics.counting import count_scores, read_count
from olmo.eval.metrics.json_answer import json_scores
from olmo.eval.metrics.mmmu import last_choice, open_answer
from olmo.eval.metrics.pointing import point_scores
from olmo.eval.metrics.relaxed import relaxed_accuracy
from olmo.eval.metrics.scene import scene_scores
from olmo.eval.metrics.short_answer import contains, exact_match, short_answer
from olmo.eval.reference import Reference
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

Scores = dict[str, float]

KIND_KEYS = ("category", "duration", "type", "area")
"""Metadata that tells the kind of a question: in MVBench, Video-MME, NExT-QA and PerceptionTest. The first counts."""

_NO_JUDGE = "cap_f1 needs a judge: --judge module:name, or a CaptionJudge from Python; without one use caption_words"


@dataclass(frozen=True)
class Metric:
    """How answers are scored.

    Attributes:
        name: what `molmo eval` calls it.
        main: the figure that counts first; the others explain it.
        score: figures of one answer; one that does not concern it is left out.
        max_new_tokens: room that an answer of this kind needs, in tokens.
        join: figures that follow from the means of a data set.
    """

    name: str
    main: str
    score: Callable[[str, Reference], Scores]
    max_new_tokens: int = 12
    join: Callable[[Mapping[str, float]], Scores] = lambda means: {}


def metric_named(name: str, judge: CaptionJudge | None = None) -> Metric:
    """The metric of this name.

    Args:
        name: one of `METRICS`.
        judge: compares captions, for `cap_f1`.

    Raises:
        OLMoConfigurationError: there is none of this name, or `cap_f1` without a judge.
    """
    if name not in METRICS:
        raise OLMoConfigurationError(f"{name!r} is not a metric; there are {', '.join(sorted(METRICS))}")
    metric = METRICS[name]
    if name != "cap_f1":
        return metric
    if judge is None:
        raise OLMoConfigurationError(_NO_JUDGE)
    return replace(metric, score=lambda text, reference: cap_scores(text, _answers(reference), judge))


def _answers(reference: Reference) -> tuple[str, ...]:
    if not reference.answers:
        raise OLMoInputError(
            "the row has no answer to compare with; give 'answer', 'answers' or an assistant's message"
        )
    return reference.answers


def _of_answers(key: str, score: Callable[[str, tuple[str, ...]], float]) -> Callable[[str, Reference], Scores]:
    return lambda text, reference: {key: score(text, _answers(reference))}


def _vqa(text: str, reference: Reference) -> Scores:
    answers = _answers(reference)
    return {
        "accuracy": vqa.vqa_accuracy(text, answers),
        "accuracy_of_three": vqa.vqa_accuracy_of_three(text, answers),
    }


def _relaxed(text: str, reference: Reference) -> Scores:
    """Also by who wrote the question, where the row says so (in ChartQA 0 is a person, 1 a program)."""
    score = relaxed_accuracy(text, _answers(reference))
    writer = {0: "human", 1: "augmented"}.get(reference.metadata.get("human_or_machine", -1))
    return {"accuracy": score} | ({f"accuracy_{writer}": score} if writer else {})


def _right_option(reference: Reference) -> int:
    if reference.options and reference.answer_idx is not None:
        return reference.answer_idx
    found = choose_option(_answers(reference)[0], reference.options) if reference.options else None
    if found is None:
        raise OLMoInputError("a multiple-choice row needs 'options', and 'answer_idx' or an answer that is one of them")
    return found


def _choice(text: str, reference: Reference) -> Scores:
    right = _right_option(reference)
    is_right = nearest_option(text, reference.options) == right
    return {"accuracy": float(is_right), "named": float(choose_option(text, reference.options) is not None)}


def _kind(reference: Reference) -> str | None:
    """What the row says of its kind, as it stands in the name of a figure; None where it says nothing."""
    found = next((str(reference.metadata[key]) for key in KIND_KEYS if reference.metadata.get(key)), None)
    return None if found is None else re.sub(r"\W+", "_", found.lower()).strip("_")


def _choice_by_kind(text: str, reference: Reference) -> Scores:
    scores, kind = _choice(text, reference), _kind(reference)
    return scores if kind is None else {**scores, f"accuracy_{kind}": scores["accuracy"]}


def _mean_of_kinds(means: Mapping[str, float]) -> Scores:
    """MVBench is told as the mean over its kinds, however many questions each has."""
    of_kinds = [value for key, value in means.items() if key.startswith("accuracy_")]
    return {"mean_of_kinds": sum(of_kinds) / len(of_kinds)} if of_kinds else {}


def _words(text: str, reference: Reference) -> Scores:
    """Words in common with the nearest answer. Where WUPS knows that a dog is an animal, this does not."""
    answers, kind = _answers(reference), _kind(reference)
    score = word_overlap(short_answer(text), answers)
    scores = {"f1": score, "exact": exact_match(text, answers)}
    return scores if kind is None else {**scores, f"f1_{kind}": score}


def _ai2d(text: str, reference: Reference) -> Scores:
    """As the Molmo paper counts: a row with letters in boxes counts for its kind of box, another for both."""
    scores = _choice(text, reference)
    is_lettered, is_clear = (bool(reference.metadata.get(key)) for key in ("abc_label", "has_transparent_box"))
    if "has_transparent_box" in reference.metadata:
        kinds = {"transparent": not is_lettered or is_clear, "opaque": not is_lettered or not is_clear}
        scores |= {kind: scores["accuracy"] for kind, counts in kinds.items() if counts}
    return scores


def _mmmu(text: str, reference: Reference) -> Scores:
    if reference.options:
        return {"accuracy": float(last_choice(text, reference.options) == _right_option(reference))}
    return {"accuracy": open_answer(text, _answers(reference))}


def _count(text: str, reference: Reference) -> Scores:
    count: Any = reference.metadata.get("count")
    if count is None and reference.points is not None:
        count = len(reference.points)
    if count is None and reference.answers:
        count = read_count(reference.answers[0])
    if count is None:
        raise OLMoInputError("the row has no count: give 'points', an answer with a number, or metadata.count")
    return count_scores(text, int(count))


def _points(text: str, reference: Reference) -> Scores:
    truth = reference.places()
    if truth is None:
        raise OLMoInputError(
            "the row has no places to compare with: give 'points', an answer with point tags, or 'There are none.'"
        )
    masks = reference.metadata.get("masks")
    return point_scores(text, truth, None if masks is None else [np.asarray(mask, dtype=bool) for mask in masks])


def _moving_scene(text: str, reference: Reference) -> Scores:
    questions = reference.metadata.get("questions")
    if reference.metadata.get("moving_scene") is None or questions is None:
        raise OLMoInputError("the metric 'moving_scene' is for clips drawn on the spot; use another one for files")
    question = questions[reference.metadata["question_index"]]
    mark = float(is_right(question, text))
    return {"accuracy": mark, question.task.value: mark, question.form: mark}


def _scene(text: str, reference: Reference) -> Scores:
    scene, questions = reference.metadata.get("scene"), reference.metadata.get("questions")
    if scene is None or questions is None:
        raise OLMoInputError("the metric 'scene' is for scenes drawn on the spot; use another one for data from files")
    return scene_scores(questions[reference.metadata["question_index"]], text, scene)


def _without_judge(text: str, reference: Reference) -> Scores:
    raise OLMoConfigurationError(_NO_JUDGE)


def _join_cap(means: Mapping[str, float]) -> Scores:
    return {"f1": cap_f1(means.get("recall", 0.0), means.get("precision", 0.0))}


_ALL = (
    Metric("vqa", "accuracy", _vqa),
    Metric("a_okvqa", "accuracy", _of_answers("accuracy", vqa.a_okvqa_accuracy)),
    Metric("anls", "score", _of_answers("score", anls), 32),
    Metric("relaxed", "accuracy", _relaxed),
    Metric("exact", "accuracy", _of_answers("accuracy", exact_match), 32),
    Metric("contains", "accuracy", _of_answers("accuracy", contains), 64),
    Metric("choice", "accuracy", _choice),
    Metric("choice_by_kind", "accuracy", _choice_by_kind, join=_mean_of_kinds),
    Metric("words", "f1", _words, 32),
    Metric("ai2d", "accuracy", _ai2d),
    Metric("mmmu", "accuracy", _mmmu, 448),
    Metric("count", "correct", _count, 192),
    Metric("points", "f1", _points, 192),
    Metric("clock", "close", lambda text, reference: clock_scores(text, _answers(reference)[0]), 32),
    Metric("json", "exact", lambda text, reference: json_scores(text, _answers(reference)[0]), 192),
    Metric("caption_words", "f1", _of_answers("f1", word_overlap), 448),
    Metric("cap_f1", "f1", _without_judge, 448, _join_cap),
    Metric("scene", "accuracy", _scene, 192),
    Metric("moving_scene", "accuracy", _moving_scene, 64),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every metric by its name."""

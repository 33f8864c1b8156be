"""Evaluations: in memory, as training wants them, and into a folder, where one that was stopped goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from olmo import __version__
from olmo.data.source import Source
from olmo.data.source_config import SourceConfig
from olmo.eval.asking import AskingOptions, ChooseBy, ask
from olmo.eval.items import Item, items_of
from olmo.eval.metrics.caption import CaptionJudge
from olmo.eval.metrics.named import Metric
from olmo.eval.predictions import Prediction, Predictions, weights_fingerprint
from olmo.eval.scoring import ScoredItem, main_figures, score_item, summarise
from olmo.eval.tasks import EvalTask, metrics_of, task_of
from olmo.exceptions import OLMoInputError
from olmo.io import write_atomic
from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig

METRICS_FILE = "metrics.json"
_NOT_OF_VIDEOS = {*(f.name for f in fields(MolmoConfig)), "frame_batch_size", "checkpoint_frames"}
VIDEO_SETTINGS = tuple(f.name for f in fields(VideoOlmoConfig) if f.name not in _NOT_OF_VIDEOS)
"""Fields of a `VideoOlmoConfig` that decide answers about videos, whatever the weights; two only save memory."""

SELECTION_SETTINGS = ("selection_ratio", "token_scorer", "encode", "crop_ratio")
"""Fields of a `HeMolmoConfig` that decide which picture tokens answers are made from."""

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    Attributes:
        task: name of the task.
        model: the model as it was named.
        scores: figures by `<metric>/<figure>`, the most important first.
        counts: of how many answers each figure is the mean.
        main: the figures that count first, one for each metric.
        scored: every question with its answer and scores, in the order of the data. References keep plain values only.
        seconds: how long asking took, answers of earlier runs not counted.
    """

    task: str
    model: str
    scores: dict[str, float]
    counts: dict[str, int]
    main: list[str]
    scored: list[ScoredItem] = field(repr=False)
    seconds: float = 0.0

    def asdict(self) -> dict[str, Any]:
        """Everything but the answers, fit for JSON."""
        return {
            "task": self.task,
            "model": self.model,
            "n_questions": len(self.scored),
            "n_rows": len({one.item.row for one in self.scored}),
            "main": self.main,
            "scores": {name: round(value, 6) for name, value in self.scores.items()},
            "counts": self.counts,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    model: ModelBase,
    task: str | EvalTask,
    limit: int | None = None,
    *,
    base_dir: str | Path | None = None,
    options: AskingOptions | None = None,
    judge: CaptionJudge | None = None,
) -> dict[str, float]:
    """Evaluate in memory, without files; what training calls.

    Args:
        model: any model; its mode is left as it is.
        task: a task, or text as `task_of` takes it.
        limit: rows asked about at most; None: as the task says.
        base_dir: folder that relative paths of the task start from.
        options: batch size and the like.
        judge: compares captions, for `cap_f1`.

    Returns:
        Figures by `<metric>/<figure>`.

    Raises:
        OLMoConfigurationError: an unknown task or metric.
        OLMoInputError: data that is missing or broken.
    """
    chosen = task_of(task, base_dir) if isinstance(task, str) else task
    chosen = replace(chosen, limit=_lower(chosen.limit, limit))
    metrics, source = metrics_of(chosen, judge), chosen.open(base_dir)
    _require_rows(chosen, source)
    scored: list[ScoredItem] = []

    def take(item: Item, text: str) -> None:
        scored.append(score_item(item, text, metrics, source.place(item.row)))

    ask(model, chosen, source, options or AskingOptions(), take)
    scored.sort(key=lambda one: one.item.key)
    return summarise(scored, metrics)[0]


def run_task(
    model: ModelBase | None,
    task: EvalTask,
    folder: str | Path,
    *,
    model_name: str = "model",
    options: AskingOptions | None = None,
    judge: CaptionJudge | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluate into a folder: `predictions.jsonl` grows with each answer, `metrics.json` follows at the end.

    Run it again after it was stopped, and it goes on; with a higher limit it asks what is new.

    Args:
        model: the model; None scores the answers that are there and asks nothing.
        task: what to ask and how to score it.
        folder: where answers and figures go.
        model_name: the model as the user named it.
        options: batch size and the like.
        judge: compares captions, for `cap_f1`.
        fresh: drop the answers that are there.
        progress: is told of rows done.

    Raises:
        OLMoInputError: data that is missing or broken, a folder with answers of another model or to other questions, or
            no model and questions without an answer.
        OLMoConfigurationError: a metric that is not known.
    """
    options = options or AskingOptions()
    metrics, source = metrics_of(task, judge), task.open()
    _require_rows(task, source)
    predictions = Predictions(folder)
    if model is None:
        predictions.load()
    else:
        predictions.begin(_settings(model, task, options), fresh)
    start = time.perf_counter()
    scored = _score_answered(task, source, metrics, predictions)
    if model is not None:
        scored += _ask_the_rest(model, task, source, metrics, predictions, options, progress)
    seconds = time.perf_counter() - start
    _require_complete(task, source, predictions)
    scored.sort(key=lambda one: one.item.key)
    scores, counts = summarise(scored, metrics)
    result = EvalResult(task.name, model_name, scores, counts, main_figures(metrics), scored, seconds)
    write_atomic(Path(folder) / METRICS_FILE, json.dumps(result.asdict(), indent=1) + "\n")
    return result


def _score_answered(
    task: EvalTask, source: Source, metrics: list[Metric], predictions: Predictions
) -> list[ScoredItem]:
    """Scores of the answers of earlier runs."""
    scored = []
    for row in sorted({row for row, _ in predictions.found if row < task.n_rows(source)}):
        place = source.place(row)
        for item in items_of(source.at(row), row, task.style, place):
            prediction = predictions.found.get(item.key)
            if prediction is not None:
                if prediction.prompt != item.prompt:
                    raise OLMoInputError(
                        f"{place}: {predictions.path} answers {prediction.prompt!r:.60}, but the question is now "
                        f"{item.prompt!r:.60}; the data has changed, start anew with --fresh"
                    )
                seen = replace(
                    item,
                    request={},
                    reference=item.reference.seen_at(prediction.image_size),
                    frame_seconds=prediction.frame_seconds,
                )
                scored.append(_slim(score_item(seen, prediction.prediction, metrics, place)))
    return scored


def _ask_the_rest(
    model: ModelBase,
    task: EvalTask,
    source: Source,
    metrics: list[Metric],
    predictions: Predictions,
    options: AskingOptions,
    progress: Progress | None,
) -> list[ScoredItem]:
    """Ask what is not answered yet; every answer is written down before the next batch begins."""
    scored: list[ScoredItem] = []
    earlier = set(predictions.found)
    n_rows = task.n_rows(source)
    n_done = sum(predictions.is_answered(row) for row in {row for row, _ in earlier} if row < n_rows)

    def is_wanted(row: int, question: int | None) -> bool:
        return not predictions.is_answered(row) if question is None else (row, question) not in earlier

    def take(item: Item, text: str) -> None:
        nonlocal n_done
        size = item.reference.image_size
        asked = (item.row, item.question, item.n_questions, item.prompt)
        predictions.add(Prediction(*asked, text, size, item.frame_seconds))
        scored.append(_slim(score_item(item, text, metrics, source.place(item.row))))
        n_done += predictions.is_answered(item.row)
        if progress is not None:
            progress(n_done, n_rows)

    if progress is not None:
        progress(n_done, n_rows)
    with predictions:
        ask(model, task, source, options, take, is_wanted)
    return scored


def _slim(scored: ScoredItem) -> ScoredItem:
    """Without what fills memory: of what the source says besides, plain values stay."""
    reference = scored.item.reference
    plain = {k: v for k, v in reference.metadata.items() if isinstance(v, str | int | float | bool)}
    return replace(scored, item=replace(scored.item, reference=replace(reference, metadata=plain)))


def _settings(model: ModelBase, task: EvalTask, options: AskingOptions) -> Mapping[str, Any]:
    """What decides the answers. The number of rows does not: asking more of them goes on."""
    data = task.source.asdict() if isinstance(task.source, SourceConfig) else {"name": task.source.name}
    settings = {
        "task": task.name,
        "weights": weights_fingerprint(model),
        "data": {key: value for key, value in data.items() if value not in (None, [], {})},
        "style": task.style,
        "generation": {"max_new_tokens": task.answer_tokens(), **(options.generation or {})},
        "olmo": __version__,
    }
    if isinstance(model.config, VideoOlmoConfig):  # what is shown of a video is a matter of settings, not of weights
        values = model.config.asdict()
        settings["video"] = {name: values[name] for name in VIDEO_SETTINGS}
    if isinstance(model.config, HeMolmoConfig):
        values = model.config.asdict()
        settings["selection"] = {name: values[name] for name in SELECTION_SETTINGS}
    if options.choose_by is not ChooseBy.text:
        settings["choose_by"] = options.choose_by.value
    return settings


def _require_rows(task: EvalTask, source: Source) -> None:
    if task.n_rows(source) < 1:
        raise OLMoInputError(f"nothing to ask: {source.name} has {len(source)} rows and the limit is {task.limit}")


def _require_complete(task: EvalTask, source: Source, predictions: Predictions) -> None:
    missing = [row for row in range(task.n_rows(source)) if not predictions.is_answered(row)]
    if missing:
        raise OLMoInputError(
            f"{predictions.path} has no answer to {len(missing)} of {task.n_rows(source)} rows (the first is "
            f"{source.place(missing[0])}); run the evaluation without --score-only"
        )


def _lower(first: int | None, second: int | None) -> int | None:
    given = [limit for limit in (first, second) if limit is not None]
    return min(given, default=None)

"""From answers to figures: scores of each, and their means over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from olmo.eval.items import Item
from olmo.eval.metrics.named import Metric, Scores
from olmo.exceptions import OLMoInputError


@dataclass(frozen=True)
class ScoredItem:
    """A question, what the model answered, and what that is worth.

    Attributes:
        item: the question.
        prediction: the answer.
        scores: by `<metric>/<figure>`.
    """

    item: Item
    prediction: str
    scores: Scores


def score_item(item: Item, prediction: str, metrics: Sequence[Metric], where: str) -> ScoredItem:
    """Score one answer.

    Args:
        item: the question, with its reference.
        prediction: the answer.
        metrics: how.
        where: the place of the row, for errors.

    Raises:
        OLMoInputError: the row does not hold what a metric compares with.
    """
    scores: Scores = {}
    for metric in metrics:
        try:
            found = metric.score(prediction, item.reference)
        except OLMoInputError as error:
            raise OLMoInputError(f"{where}: metric {metric.name!r}: {error}") from None
        scores |= {f"{metric.name}/{key}": float(value) for key, value in found.items()}
    return ScoredItem(item, prediction, scores)


def summarise(scored: Sequence[ScoredItem], metrics: Sequence[Metric]) -> tuple[Scores, dict[str, int]]:
    """Means over a data set.

    Returns:
        The figures by `<metric>/<figure>`, and of how many answers each is the mean; a figure that concerns some
        answers only is the mean over those.
    """
    values: dict[str, list[float]] = {}
    for one in scored:
        for key, value in one.scores.items():
            values.setdefault(key, []).append(value)
    means = {key: sum(found) / len(found) for key, found in values.items()}
    counts = {key: len(found) for key, found in values.items()}
    for metric in metrics:
        own = {key.removeprefix(f"{metric.name}/"): v for key, v in means.items() if key.startswith(f"{metric.name}/")}
        joined = metric.join(own) if own else {}
        means |= {f"{metric.name}/{key}": value for key, value in joined.items()}
        counts |= {f"{metric.name}/{key}": len(scored) for key in joined}
    order = sorted(means, key=lambda key: _place(key, metrics))
    return {key: means[key] for key in order}, {key: counts[key] for key in order}


def main_figures(metrics: Sequence[Metric]) -> list[str]:
    """Names of the figures that count first, one for each metric."""
    return [f"{metric.name}/{metric.main}" for metric in metrics]


def _place(key: str, metrics: Sequence[Metric]) -> tuple[int, bool, list[str | int]]:
    """Metrics in their order, each one's main figure first; `correct_at_10` after `correct_at_9`."""
    name, _, figure = key.partition("/")
    number = next(i for i, metric in enumerate(metrics) if metric.name == name)
    head, _, tail = figure.rpartition("_")
    return number, figure != metrics[number].main, [head, int(tail)] if tail.isdigit() else [figure, 0]

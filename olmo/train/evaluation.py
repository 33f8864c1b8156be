"""Evaluation inside a run: losses on data that is not trained on, and tasks that the model answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olmo.data.loader import StepLoader
from olmo.data.source import Source
from olmo.exceptions import OLMoConfigurationError
from olmo.train.parallel.processes import Parallel
from olmo.train.step import autocast, run_micro_batches
from olmo.train.task import TrainTask
from olmo.train.train_config import EvaluationConfig, TrainConfig


def evaluate(task: TrainTask, config: TrainConfig, parallel: Parallel) -> dict[str, float]:
    """All that the recipe evaluates: losses, then tasks as `<task>/<metric>`. Every process must call it.

    Args:
        task: what is trained.
        config: the recipe.
        parallel: the processes; a model that is split over them is gathered to answer tasks.
    """
    assert config.evaluation is not None, "there is something to evaluate"
    results = evaluate_losses(task, config, parallel)
    for name in config.evaluation.tasks:
        with parallel.whole(), autocast(parallel.device, config.precision):
            figures = task.answer(name, config.evaluation.task_limit)
        results |= {f"{Path(name.partition(':')[0]).stem}/{figure}": value for figure, value in figures.items()}
    return results


def evaluate_losses(task: TrainTask, config: TrainConfig, parallel: Parallel) -> dict[str, float]:
    """Mean loss on each evaluation source, as `<source>/loss`, and over all of them, as `loss`.

    Every process must call it. The module is put back into training mode afterwards.

    Args:
        task: gives the losses.
        config: the recipe.
        parallel: the processes, among which examples are shared out.

    Raises:
        OLMoConfigurationError: a source has fewer examples than there are processes.
    """
    assert config.evaluation is not None, "there is something to evaluate"
    results: dict[str, float] = {}
    total = weight = 0.0
    task.module.eval()
    try:
        for source in task.evaluation_sources:
            mean, of_source = _mean_loss(task, source, config, parallel)
            results[f"{source.name}/loss"] = mean
            total, weight = total + mean * of_source, weight + of_source
    finally:
        task.module.train()
    return results | ({"loss": total / weight} if weight else {})


def _mean_loss(task: TrainTask, source: Source, config: TrainConfig, parallel: Parallel) -> tuple[float, float]:
    """Mean loss of a source and the weight it is taken over."""
    total = weight = 0.0
    for micro_batches in _batches(task, source, config, parallel):
        sums = run_micro_batches(task, micro_batches, parallel, precision=config.precision, with_gradient=False)
        total, weight = total + sums.loss * sums.weight, weight + sums.weight
    return (total / weight if weight else float("nan")), weight


def _batches(
    task: TrainTask, source: Source, config: TrainConfig, parallel: Parallel
) -> Iterator[list[dict[str, Any]]]:
    """The first examples of a source in equal pieces; what does not fill the last piece is left out."""
    assert config.evaluation is not None, "there is something to evaluate"
    wanted, n_processes = min(config.evaluation.n_examples, len(source)), parallel.data_world_size
    if wanted < n_processes:
        raise OLMoConfigurationError(
            f"{source.name} gives {wanted} examples, fewer than the {n_processes} processes that share them; raise "
            "n_examples or give it more rows",
            "evaluation",
        )
    n_pieces = -(-wanted // max(config.batch_size, n_processes))
    loader = StepLoader(
        source,
        task.evaluation_prepare,
        task.collate,
        batch_size=wanted // n_pieces,
        micro_batch_size=config.micro_batch_size or config.batch_size,
        max_steps=n_pieces,
        rank=parallel.data_rank,
        world_size=n_processes,
        seed=config.seed,
        on_bad_example=config.on_bad_example,
    )
    for batch in loader:
        yield batch.micro_batches


def is_due(config: EvaluationConfig | None, step: int, max_steps: int) -> bool:
    """Whether to evaluate after `step` steps."""
    return config is not None and (step % config.every_steps == 0 or step == max_steps)

"""The training loop: batches in, steps taken, metrics and checkpoints out. What is learned is the task's business.

Same configuration, same seed: same batches, same losses, bit for bit, also across a restart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from olmo.checkpoint.train_state import load_train_state, save_train_state
from olmo.train.metrics_log import MetricsLog
from olmo.train.optim import build_optimizer, clip_by_component, set_learning_rates
from olmo.train.train_config import TrainConfig

Batch = dict[str, Any]


class TrainTask(Protocol):
    """What a trainer needs to know of the thing it trains."""

    module: nn.Module
    """Everything that is trained, in one module."""

    dataset: Dataset[Any]
    """Example `i` of an endless stream; the order is 0, 1, 2, ..."""

    def collate(self, examples: list[Any]) -> Batch:
        """A batch of examples."""

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Parameters by component (connector, vit, llm) and name."""

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Scalar loss of a batch and numbers to log."""

    def export(self, folder: Path) -> None:
        """Write what the run is for."""


class Trainer:
    """Runs a task to `max_steps`, resuming from the run folder when there is something to resume."""

    def __init__(self, config: TrainConfig, task: TrainTask) -> None:
        self.config = config
        self.task = task
        self.run_dir = Path(config.run_dir)
        self.log = MetricsLog(self.run_dir / "metrics.jsonl")
        self.optimizer = build_optimizer(task.components(), config.optimizer)
        self.step = 0
        if config.n_threads:
            torch.set_num_threads(config.n_threads)
        if (self.run_dir / "latest").is_dir():
            self.step = int(load_train_state(self.run_dir / "latest", task.module, self.optimizer)["step"])
            self.log.truncate_after(self.step)

    def fit(self) -> None:
        """Train to the end, then export to `<run_dir>/final`."""
        config = self.config
        self.task.module.train()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, TimeRemainingColumn()) as progress:
            bar = progress.add_task("training", total=config.max_steps, completed=self.step)
            since, start_step = time.perf_counter(), self.step
            for batch in self.batches():
                metrics = self.train_step(batch)
                progress.update(bar, completed=self.step, description=f"loss {metrics['loss']:.3f}")
                if self.step % config.log_every == 0 or self.step == config.max_steps:
                    now = time.perf_counter()
                    rate = (self.step - start_step) * config.batch_size / (now - since)
                    since, start_step = now, self.step
                    self.log.write(step=self.step, pictures_per_s=rate, **metrics)
                if self.step % config.save_every == 0 or self.step == config.max_steps:
                    self.save()
        self.task.export(self.run_dir / "final")

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step on one batch."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        rates = set_learning_rates(self.optimizer, self.config.optimizer, self.step, self.config.max_steps)
        loss, metrics = self.task.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms = clip_by_component(self.optimizer, self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.step += 1
        learning = {f"lr_{k}": v for k, v in rates.items()} | {f"grad_norm_{k}": v for k, v in norms.items()}
        return {"loss": float(loss.detach()), **metrics, **learning}

    def save(self) -> None:
        """Write a checkpoint that this run resumes from."""
        save_train_state(self.run_dir / "latest", self.task.module, self.optimizer, {"step": self.step})

    def batches(self) -> Iterator[Batch]:
        """The batches of the steps still to be taken; step s holds the examples from first_example + s*B on."""
        config, size = self.config, self.config.batch_size
        firsts = [config.first_example + step * size for step in range(self.step, config.max_steps)]
        order = [list(range(first, first + size)) for first in firsts]
        loader = DataLoader(
            self.task.dataset,
            batch_sampler=order,
            num_workers=config.n_workers,
            collate_fn=self.task.collate,
            prefetch_factor=8 if config.n_workers else None,
        )
        yield from loader

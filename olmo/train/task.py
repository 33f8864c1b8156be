"""`TrainTask`: what the trainer needs to know of the thing it trains. The trainer itself knows no model and no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from olmo.data.mixture import Mixture
from olmo.data.source import Source

Batch = dict[str, Any]
"""A micro-batch: tensors with a leading row dimension, and what the task wants besides."""

Tally = dict[str, tuple[torch.Tensor | float, torch.Tensor | float]]
"""A numerator and a denominator by name: numbers that are averaged over micro-batches and processes."""

Prepare = Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, Any]]
"""A raw example to the tensors of one example. Goes to worker processes, so it holds no model."""

Collate = Callable[[Sequence[Any]], Batch]
"""Rows to a micro-batch; a row is an example, or a list of examples that share it. Goes to worker processes."""

AddUp = Callable[[Sequence[float]], list[float]]
"""Sums of numbers over all processes with different data; every process has to call it."""


class TrainTask(Protocol):
    """What a trainer needs to know of the thing it trains."""

    module: nn.Module
    """Everything that is trained, in one module. With several processes the trainer puts the wrapped module here, so
    `loss` has to call it and nothing inside it."""

    stream: Mixture
    """Raw examples of the run."""

    prepare: Prepare
    """From raw examples to tensors, with the randomness of training."""

    collate: Collate
    """From examples to micro-batches."""

    evaluation_sources: list[Source]
    """Data to take a loss of that is not trained on."""

    evaluation_prepare: Prepare
    """From raw examples to tensors, without randomness."""

    @property
    def tally_names(self) -> tuple[str, ...]:
        """Names that `loss` may tally, the same on every process."""

    @property
    def sequence_length(self) -> int | None:
        """Longest row, in tokens; None where there are no rows of tokens."""

    @property
    def n_vit_blocks(self) -> int:
        """Blocks of the ViT that get a gradient, from the first on; see `UnfreezeSchedule`."""

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Parameters by component (connector, vit, llm) and name."""

    def begin_step(self, step: int, max_steps: int) -> None:
        """Told on every process before a step (0-based), for what changes over the run."""

    def end_step(self, add_up: AddUp) -> None:
        """Told on every process after a step that was taken; `add_up` sums numbers over the processes."""

    def weight(self, batch: Batch) -> float:
        """Sum of the loss weights in a micro-batch, known before the forward pass."""

    def n_tokens(self, batch: Batch) -> int:
        """Tokens in a micro-batch, padding not counted."""

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of forward and backward pass of a micro-batch."""

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Mean loss of a micro-batch, float32, and numbers to log."""

    def answer(self, name: str, limit: int) -> dict[str, float]:
        """Figures of an evaluation task as `molmo eval` takes it, on its first `limit` examples."""

    def export(self, folder: Path) -> None:
        """Write what the run is for. The main process calls it; where weights are split, all do."""

    def write_configuration(self, folder: Path) -> None:
        """Add to a checkpoint what makes its weights a model that loads, where they are one."""

"""A moving average of the weights, kept beside them in float32 and put in their place to evaluate or to export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of named parameters. It starts as their copy, so it has no bias to correct.

    Args:
        parameters: what is averaged; whole or sharded tensors. Keep the names stable over restarts.
        decay: share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        self.averages = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move a step towards the parameters."""
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name].detach().float(), 1.0 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold their averages inside, and bit-exactly what they held before afterwards."""
        held = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._fill(self.averages)
        try:
            yield
        finally:
            self._fill(held)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by name, for a checkpoint: these very tensors, so that loading may fill them in place."""
        return dict(self.averages)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

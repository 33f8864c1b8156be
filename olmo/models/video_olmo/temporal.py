"""What a VideoOlmo may do with time besides writing it: an embedding of seconds, and joining neighbouring frames.

Both leave a Molmo as it is at first: the embedding has a gain of zero, and attention over time begins as the mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from olmo.models.picture_inputs import PictureInputs
from olmo.nn.image_vit import init_linear
from olmo.nn.linear import linear

N_PERIODS = 32
SHORTEST_S, LONGEST_S = 0.25, 4096.0
"""Periods of the sinusoids in seconds, spread evenly on a logarithmic scale."""

SCORE_WIDTH = 64
"""Width of queries and keys over time."""


class TimeEmbedding(nn.Module):
    """Sinusoids of seconds, projected to the width of the language model, times a gain that starts at zero.

    Args:
        d_model: width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.projection = linear(2 * N_PERIODS, d_model)
        self.gain = nn.Parameter(torch.zeros(d_model))

    def forward(self, seconds: Tensor) -> Tensor:
        """Embed times.

        Args:
            seconds: `[M]`.

        Returns:
            `[M, D]`.
        """
        steps = torch.arange(N_PERIODS, device=seconds.device, dtype=torch.float32) / (N_PERIODS - 1)
        periods = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** steps
        angles = 2 * math.pi * seconds.float()[:, None] / periods  # [M, periods]
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.gain.dtype)
        return self.projection(waves) * self.gain

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection; the gain is zero."""
        init_linear(self.projection, generator)
        nn.init.zeros_(self.gain)


class TemporalAttention(nn.Module):
    """Weights of frames that are joined, by how each place fits the mean over the frames; equal weights at first.

    Args:
        d_model: width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.wq = linear(d_model, SCORE_WIDTH)
        self.wk = linear(d_model, SCORE_WIDTH)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, means: Tensor, features: Tensor) -> Tensor:
        """Scores `[M, tokens]`, float32, of features `[M, tokens, D]` beside the means `[M, tokens, D]` they go to."""
        products = self.wq(means).float() * self.wk(features).float()
        return products.sum(dim=-1) * (self.gain.float() / math.sqrt(SCORE_WIDTH))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the projections; the gain is zero."""
        init_linear(self.wq, generator)
        init_linear(self.wk, generator)
        nn.init.zeros_(self.gain)


def join_frames(features: Tensor, pictures: PictureInputs, attention: TemporalAttention | None) -> Tensor:
    """Join the frames that share their tokens, place by place.

    Args:
        features: `[M, tokens, D]`.
        pictures: whose they are; frames with the same `token_index` in a row are one group.
        attention: weighs the frames of a group; None: their mean.

    Returns:
        `[M, tokens, D]`: the result of a group stands at its first frame, its others are zero, so that adding all of
        them to their tokens adds each group once. Crops of pictures are as they were.
    """
    group, first = _groups(pictures)
    counts = torch.bincount(group, minlength=len(first))
    means = _summed(features, group, len(first)) / counts[:, None, None]  # [groups, tokens, D]
    if attention is not None:
        scores = attention(means[group], features)  # [M, tokens]
        highest = scores.new_full((len(first), scores.shape[1]), -math.inf)
        highest = highest.scatter_reduce(0, group[:, None].expand_as(scores), scores.detach(), "amax")
        shares = (scores - highest[group]).exp()
        shares = shares / _summed(shares, group, len(first))[group]
        means = _summed(features * shares[..., None].to(features.dtype), group, len(first))
    return torch.zeros_like(features).index_copy(0, first, means)


def _groups(pictures: PictureInputs) -> tuple[Tensor, Tensor]:
    """Number of each crop's group `[M]`, and the first crop of each group `[groups]`."""
    assert pictures.facts is not None, "frame_inputs gives them"
    places = torch.arange(len(pictures.rows), device=pictures.rows.device)
    n_positions = int(pictures.token_index.max()) + 1
    own = pictures.rows * n_positions + pictures.token_index[:, 0]  # a frame's first entry is always used
    keys = torch.where(pictures.facts[:, 0] >= 0, own, -1 - places)
    names, group = torch.unique(keys, return_inverse=True)
    first = torch.full_like(names, len(places)).scatter_reduce(0, group, places, "amin")
    return group, first


def _summed(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """`[M, ...] -> [groups, ...]`."""
    return values.new_zeros(n_groups, *values.shape[1:]).index_add(0, group, values)

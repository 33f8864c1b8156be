"""The numbers that say which conversation, and which example of a packed row, a token belongs to.

A row of a batch may hold several examples, and an example several conversations about the same pictures. The tokens of
conversation m (from 1) of example e (from 0) have the segment `e * EXAMPLE_STRIDE + m`; what all conversations of an
example see, its first token and its pictures, has `e * EXAMPLE_STRIDE + SHARED_SEGMENT`. Padding has -1. A token sees
the keys of its own example whose segment is its own or larger. Source: the message trees of Molmo v1, where the shared
segment has the same number; examples that share a row are our own addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARED_SEGMENT = 10_000
EXAMPLE_STRIDE = 20_000


def example_of(segment_ids: Tensor) -> Tensor:
    """Place in its row of the example that each token belongs to, from 0; -1 on padding. Same shape, int64."""
    return torch.div(segment_ids, EXAMPLE_STRIDE, rounding_mode="floor")


def is_shared(segment_ids: Tensor) -> Tensor:
    """Whether all conversations of its example see a token. Same shape, bool."""
    return torch.remainder(segment_ids, EXAMPLE_STRIDE) == SHARED_SEGMENT

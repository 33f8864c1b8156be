"""One rule for one parameter: which published tensors it is made of, and how.

A list of these rules describes a published weight layout completely. They hold names and functions only, so that a
layout can be read, inverted and tested without a model; `checkpoint/hf.py` applies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def only(tensor: Tensor) -> Tensor:
    """Return the single source tensor as it is."""
    return tensor


def join_rows(*parts: Tensor) -> Tensor:
    """Return tensors `[rows, ...]` under one another."""
    return torch.cat(parts)


@dataclass(frozen=True)
class WeightRule:
    """How one target tensor is made from source tensors.

    Args:
        target: Name of the tensor that is made.
        sources: Names of the tensors it is made of, in the order in which `combine` takes them.
        combine: Function from the source tensors to the target tensor. It must not change its arguments, and it keeps
            the dtype.
    """

    target: str
    sources: tuple[str, ...]
    combine: Callable[..., Tensor] = only

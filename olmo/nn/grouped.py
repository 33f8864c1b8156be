"""Products of rows, sorted by group, with one matrix for each group: `torch.nn.functional.grouped_mm`.

On a GPU it is one kernel and needs no count on the host. On a CPU, empty groups cost nothing either.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.torch_util import autocast_dtype

_ALIGNMENT = 16  # bytes that the rows of every operand have to be a multiple of
_FIRST_CUDA = (8, 0)  # compute capability from which the kernel exists


def is_one_graph() -> bool:
    """Whether a compiler traces a pass without gradients, which is to become one graph: nothing may ask the host."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


def takes_groups(tokens: Tensor, *weights: Tensor) -> bool:
    """Whether the grouped product can be had here for these tokens `[n, D]` and weights `[E, ., .]`."""
    if not hasattr(F, "grouped_mm") or tokens.device.type not in ("cpu", "cuda", "meta"):
        return False
    dtype = _dtype(tokens)
    if any(width * dtype.itemsize % _ALIGNMENT for weight in weights for width in weight.shape[1:]):
        return False
    if tokens.device.type != "cuda":  # without numbers as with a CPU's
        # Float32 has the product but not the shapes of it that a compiler asks for.
        return dtype is torch.bfloat16 or (dtype is torch.float32 and not is_one_graph())
    return dtype is torch.bfloat16 and torch.cuda.get_device_capability(tokens.device) >= _FIRST_CUDA


def grouped_product(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Rows of each group times its matrix; under autocast in its type.

    Args:
        rows: `[n, A]`, those of the first group first.
        matrices: `[E, B, A]`, outputs before inputs.
        ends: int32 `[E]`, number of the row behind the last of each group; the last one is n.

    Returns:
        `[n, B]`.
    """
    dtype = _dtype(rows)
    product = F.grouped_mm(rows.to(dtype), matrices.to(dtype).transpose(1, 2), offs=ends)
    return _Contiguous.apply(product) if product.requires_grad else product


def _dtype(tokens: Tensor) -> torch.dtype:
    return autocast_dtype(tokens.device.type) or tokens.dtype


class _Contiguous(torch.autograd.Function):
    """Passes its input on, and a gradient in rows of their own: the kernel refuses one that was only expanded."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.contiguous()

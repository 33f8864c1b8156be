"""A frozen linear layer that keeps its matrix in 8 bits: a quarter of the memory, and gradients for its input.

Each row of the matrix has one scale, the largest magnitude of the row over 127. A product widens one matrix for its own
time; nothing wide is kept for the backward pass. Meant as the base below trained adapters, on any device.

Source: Dettmers et al. 2022 (LLM.int8()), section 2.1, absmax quantisation, by row and for the weights alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGEST = 127.0


class Int8Linear(nn.Linear):
    """An `nn.Linear` whose matrix is int8 with a scale a row; it does not learn.

    Matrix and scales are buffers, so that neither an optimizer nor FSDP takes them for parameters.

    Args:
        source: the layer to copy; it is not changed.
    """

    scale: Tensor

    def __init__(self, source: nn.Linear) -> None:
        nn.Module.__init__(self)  # the constructor of nn.Linear would draw a float matrix first
        self.in_features, self.out_features = source.in_features, source.out_features
        weight = source.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST  # [out, 1]
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))  # [out, in]
        self.register_buffer("scale", scale.squeeze(1))  # [out]
        bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor) -> Tensor:
        """`input` `[..., in]` times the widened matrix, plus the bias: `[..., out]`, in the dtype of the input."""
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        result: Tensor = _Product.apply(input, self.weight, self.scale)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def widened(self) -> Tensor:
        """The matrix that the 8-bit numbers stand for, float32 `[out, in]`."""
        return self.weight.float() * self.scale[:, None]


class _Product(torch.autograd.Function):
    """`x @ widened.T`; keeps only the 8-bit matrix for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return (gradient * scale.to(gradient.dtype)) @ weight.to(gradient.dtype), None, None

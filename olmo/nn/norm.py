"""Normalisation layers of the language model: RMSNorm, and LayerNorm as OLMo 1 has it.

Both work in float32 whatever the input is, go back to the input's dtype, and only then multiply by the weight. The
order is visible in bfloat16; it is the one the released weights were trained with.
Source: RMSNorm, Zhang and Sennrich 2019; LayerNorm, Ba et al. 2016; the order, the released Molmo models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.llm_config import LlmConfig, NormType


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis.

    Args:
        dim: Width of the last axis.
        eps: Added to the mean square.
        has_weight: Multiply by a learned weight `[dim]`.
    """

    weight: nn.Parameter | None

    def __init__(self, dim: int, eps: float, has_weight: bool = True) -> None:
        super().__init__()
        self.shape = (dim,)
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(dim)) if has_weight else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` `[..., dim]`; same shape, and dtype of `x` times the weight."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.shape, self.weight, self.eps)
        normed = F.rms_norm(x.float(), self.shape, None, self.eps).to(x.dtype)
        return normed if self.weight is None else normed * self.weight

    def reset_parameters(self) -> None:
        """Set the weight to one."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def extra_repr(self) -> str:
        """Width, epsilon and whether there is a weight."""
        return f"{self.shape[0]}, eps={self.eps}, has_weight={self.weight is not None}"


class LayerNorm(RMSNorm):
    """Subtract the mean and divide by the standard deviation over the last axis; a weight, never a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` `[..., dim]`; same shape, and dtype of `x` times the weight."""
        if x.dtype == torch.float32:
            return F.layer_norm(x, self.shape, self.weight, None, self.eps)
        normed = F.layer_norm(x.float(), self.shape, None, None, self.eps).to(x.dtype)
        return normed if self.weight is None else normed * self.weight


def build_norm(config: LlmConfig, dim: int) -> RMSNorm:
    """The norm that `config` asks for, over `dim` channels."""
    kind = LayerNorm if config.norm_type is NormType.layer else RMSNorm
    return kind(dim, config.norm_eps, config.norm_has_weight)

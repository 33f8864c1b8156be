"""The gated feed-forward of a dense block. Source: GLU variants, Shazeer 2020 (SwiGLU)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.linear import linear
from olmo.nn.llm_config import LlmConfig


class GatedMlp(nn.Module):
    """`ff_out(silu(gate) * up)` with up and gate from one projection.

    The first half of the projection's rows is up, the second half gate, as in the released weights.

    Args:
        config: Width of the model and of the inner layer.
    """

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.ff_proj = linear(config.d_model, 2 * config.resolved_mlp_hidden_size)
        self.ff_out = linear(config.resolved_mlp_hidden_size, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `x` `[..., D]`; same shape."""
        up, gate = self.ff_proj(x).chunk(2, -1)  # [..., F] each
        return self.ff_out(F.silu(gate) * up)

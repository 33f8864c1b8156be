"""The routed feed-forward: each token goes through a few experts, chosen by a learned router.

Dropless: every token reaches all its experts, however uneven the load. The weights of the chosen experts are not
renormalised. The router and its softmax are float32 also in bfloat16 models and under autocast.
Source: OLMoE, Muennighoff et al. 2024, sections 2 and 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.linear import linear
from olmo.nn.llm_config import LlmConfig


class RoutedMlp(nn.Module):
    """Sum of the gated feed-forwards of the chosen experts, each times its router probability.

    Args:
        config: Width of the model and of one expert, number of experts, experts per token.
    """

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.n_experts, self.experts_per_token = config.n_experts, config.experts_per_token
        width, inner = config.d_model, config.resolved_mlp_hidden_size
        self.router = linear(width, self.n_experts)
        self.experts_in = nn.Parameter(torch.empty(self.n_experts, width, 2 * inner))  # last axis: up, then gate
        self.experts_out = nn.Parameter(torch.empty(self.n_experts, inner, width))

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Args:
            tokens: `[N, D]`.

        Returns:
            Probabilities of the chosen experts, float32 `[N, k]`, and their indices `[N, k]`, likeliest first.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(tokens.float(), self.router.weight.float())  # [N, E]
        return torch.softmax(logits, -1).topk(self.experts_per_token, -1)

    def forward(self, x: Tensor, load: Tensor | None = None) -> Tensor:
        """Transform each token of `x` `[..., D]`; same shape.

        Args:
            x: Tokens.
            load: Integers `[E]` to be overwritten with the number of tokens that each expert got, or None.
        """
        tokens = x.reshape(-1, x.shape[-1])  # [N, D]
        weights, chosen = self.route(tokens)
        pairs = chosen.flatten()  # [N k], the expert of each pair of token and expert
        counts = torch.bincount(pairs, minlength=self.n_experts)  # [E]
        if load is not None:
            load.copy_(counts)
        order = pairs.argsort(stable=True)  # [N k], pairs sorted by expert, then by token
        sizes = counts.tolist()
        rows_of = (order // self.experts_per_token).split(sizes)
        weights_of = weights.to(tokens.dtype).view(-1, 1)[order].split(sizes)  # [n, 1] each
        # unbind, not indexing: its backward is one stack, with zeros for the experts that got no token.
        experts_in, experts_out = self.experts_in.unbind(), self.experts_out.unbind()
        out = torch.zeros_like(tokens)
        for expert in (expert for expert, size in enumerate(sizes) if size):
            rows = rows_of[expert]  # [n], which tokens
            up, gate = (tokens[rows] @ experts_in[expert]).chunk(2, -1)  # [n, F] each
            result = (F.silu(gate) * up) @ experts_out[expert] * weights_of[expert]  # [n, D]
            out.index_add_(0, rows, result.to(out.dtype))
        return out.view_as(x)

"""The routed feed-forward: each token goes through a few experts, chosen by a learned router.

Dropless: every token reaches all its experts, however uneven the load. The weights of the chosen experts are not
renormalised. The router and its softmax are float32 also in bfloat16 models and under autocast.
Source: OLMoE, Muennighoff et al. 2024, sections 2 and 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.grouped import grouped_product, is_one_graph, takes_groups
from olmo.nn.linear import linear, project, takes_onednn
from olmo.nn.llm_config import LlmConfig, MoeBackend
from olmo.nn.router import RouterStatistics, Routing, balanced_bias, route, router_statistics
from olmo.torch_util import without_autocast

MOST_GATHERED = 512
"""Pairs of token and expert that a compiled step takes one by one; more would read the same matrices too often."""

FEWEST_LOOPED = 64
"""Pairs of token and expert from which going from expert to expert is quicker where oneDNN takes the products."""


class RoutedMlp(nn.Module):
    """Sum of the gated feed-forwards of the chosen experts, each times its router probability.

    Args:
        config: Width of the model and of one expert, number of experts, experts per token, how products are taken.
    """

    selection_bias: Tensor | None
    """`[E]` float32, moves choices towards experts that got too little; None where the configuration has no rate."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.n_experts, self.experts_per_token = config.n_experts, config.experts_per_token
        self.backend, self.bias_rate = config.moe_backend, config.router_bias_rate
        width, inner = config.d_model, config.resolved_mlp_hidden_size
        self.router = linear(width, self.n_experts)
        # As in nn.Linear, outputs come before inputs; a CPU takes such matrices faster.
        self.experts_in = nn.Parameter(torch.empty(self.n_experts, 2 * inner, width))  # rows of up, then of gate
        self.experts_out = nn.Parameter(torch.empty(self.n_experts, width, inner))
        bias = torch.zeros(self.n_experts, dtype=torch.float32) if self.bias_rate > 0.0 else None
        self.register_buffer("selection_bias", bias)
        self.load_of_step: Tensor | None = None  # choices since the last `balance`, in training

    def route(self, tokens: Tensor) -> Routing:
        """Choose experts for tokens `[N, D]`."""
        with without_autocast(tokens.device.type):
            logits = F.linear(tokens.float(), self.router.weight.float())  # [N, E]
            return route(logits, self.experts_per_token, self.selection_bias)

    def forward(self, x: Tensor, routing: Routing | None = None) -> Tensor:
        """Transform each token of `x` `[..., D]`; same shape.

        Args:
            x: Tokens.
            routing: Of these tokens, from `route`; None: it is made here.
        """
        tokens = x.reshape(-1, x.shape[-1])  # [N, D]
        if routing is None:
            routing = self.route(tokens)
        pairs = routing.chosen.flatten()  # [N k], the expert of each pair of token and expert
        counts = _counts(pairs, self.n_experts)  # [E]
        order = pairs.argsort(stable=True)  # [N k], pairs sorted by expert, then by token
        rows = order // self.experts_per_token
        weights = routing.weights.to(tokens.dtype).view(-1, 1)[order]  # [N k, 1]
        results = self.experts(tokens[rows], counts) * weights
        out = torch.zeros_like(tokens).index_add_(0, rows, results.to(tokens.dtype))
        return out.view_as(x)

    def experts(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Each token through one expert.

        Args:
            tokens: `[n, D]`, sorted by expert.
            counts: integers `[E]`, tokens of each expert.

        Returns:
            `[n, D]`.
        """
        return expert_products(tokens, counts, self.experts_in, self.experts_out, self.backend)

    # -- balance ---------------------------------------------------------------------------------------------------

    def statistics(self, routing: Routing, counted: Tensor | None = None) -> RouterStatistics:
        """Sums over the tokens that count; in training also remembered for `balance`.

        Args:
            routing: of N tokens.
            counted: boolean `[N]`; None: all.
        """
        found = router_statistics(routing, counted)
        if self.training and self.selection_bias is not None:
            self.load_of_step = found.load if self.load_of_step is None else self.load_of_step + found.load
        return found

    @torch.no_grad()
    def balance(self, load: Tensor) -> None:
        """Move the selection bias by the load of a step, `[E]` over all processes, and forget that load."""
        if self.selection_bias is not None:
            self.selection_bias.copy_(balanced_bias(self.selection_bias, load, self.bias_rate))
        self.load_of_step = None


def _counts(pairs: Tensor, n_experts: int) -> Tensor:
    """How often each expert was chosen, int64 `[E]`."""
    if is_one_graph():  # torch takes the length of a bincount for something that depends on data
        return torch.zeros(n_experts, dtype=torch.long, device=pairs.device).index_add_(
            0, pairs, torch.ones_like(pairs)
        )
    return torch.bincount(pairs, minlength=n_experts)


def expert_products(
    tokens: Tensor, counts: Tensor, experts_in: Tensor, experts_out: Tensor, backend: MoeBackend = MoeBackend.auto
) -> Tensor:
    """Tokens through the gated feed-forward of their expert.

    Args:
        tokens: `[n, D]`, sorted by expert.
        counts: integers `[E]`, tokens of each expert.
        experts_in: `[E, 2F, D]`, rows of up, then of gate.
        experts_out: `[E, D, F]`.
        backend: how.

    Returns:
        `[n, D]`.
    """
    if not len(tokens):
        return tokens
    if backend is MoeBackend.auto:
        is_grouped = not _loop_is_quicker(tokens, experts_in) and takes_groups(tokens, experts_in, experts_out)
        backend = MoeBackend.grouped if is_grouped else MoeBackend.loop
    if backend is MoeBackend.loop:
        way = _gathered if is_one_graph() and len(tokens) <= MOST_GATHERED else _one_by_one
        return way(tokens, counts, experts_in, experts_out)
    ends = counts.cumsum(0).to(torch.int32)
    up, gate = grouped_product(tokens, experts_in, ends).chunk(2, -1)  # [n, F] each
    return grouped_product(F.silu(gate) * up, experts_out, ends)


def _loop_is_quicker(tokens: Tensor, matrices: Tensor) -> bool:
    """Whether to go from expert to expert although a grouped product can be had."""
    if len(tokens) < FEWEST_LOOPED:
        return False
    if tokens.device.type == "meta":  # stands for a CPU, of which memory is estimated
        return tokens.dtype is torch.float32 and not torch.is_grad_enabled()
    return takes_onednn(tokens, matrices)


def _gathered(tokens: Tensor, counts: Tensor, experts_in: Tensor, experts_out: Tensor) -> Tensor:
    """Each token times the matrices of its own expert, in shapes that depend on no data.

    Written as sums of products, because inductor then reads the matrices where they are. A matrix product would have
    them copied first, one for each token.
    """
    numbers = torch.arange(len(tokens), device=tokens.device)
    expert = torch.searchsorted(counts.cumsum(0), numbers, right=True)  # [n]
    up, gate = (tokens[:, None] * experts_in[expert]).sum(-1).chunk(2, -1)  # [n, F] each
    return ((F.silu(gate) * up)[:, None] * experts_out[expert]).sum(-1)


def _one_by_one(tokens: Tensor, counts: Tensor, experts_in: Tensor, experts_out: Tensor) -> Tensor:
    """In a loop over the experts, which every device can; what the other way is tested against."""
    # unbind, not indexing: its backward is one stack, with zeros for the experts that got no token.
    parts = zip(tokens.split(counts.tolist()), experts_in.unbind(), experts_out.unbind(), strict=True)
    results = []
    for part, matrix_in, matrix_out in parts:
        if len(part):
            up, gate = project(part, matrix_in).chunk(2, -1)  # [n, F] each
            results.append(project(F.silu(gate) * up, matrix_out))
    return torch.cat(results)

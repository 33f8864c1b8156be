"""What a router decides, what is counted of it, and the losses that keep it honest.

Sources: OLMoE, Muennighoff et al. 2024, section 4; the load balancing loss is that of Switch Transformer, Fedus et al.
2021, in the normalised form: 1 where all experts get the same, whatever their number and the number of choices. (The
helper in `transformers` divides by tokens instead of choices, so its coefficients weigh `k` times as much.) The router
z-loss is that of ST-MoE, Zoph et al. 2022; balancing by a bias is Wang et al. 2024, "Auxiliary-Loss-Free".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Routing(NamedTuple):
    """Which experts N tokens go to. All but `chosen` is float32 and has a gradient."""

    logits: Tensor
    """`[N, E]` before the softmax."""

    probabilities: Tensor
    """`[N, E]`."""

    weights: Tensor
    """`[N, k]` probabilities of the chosen experts, not renormalised."""

    chosen: Tensor
    """`[N, k]` their indices, likeliest first; with a selection bias, first by probability plus bias."""


class RouterStatistics(NamedTuple):
    """Sums over the tokens that count, of one layer or stacked `[n_layers, ...]`."""

    load: Tensor
    """`[E]` int64, choices of each expert."""

    probability: Tensor
    """`[E]` float32, sum of the probabilities of each expert."""

    squared_z: Tensor
    """`[]` float32, sum of the squared logarithms of the softmax's divisor."""

    entropy: Tensor
    """`[]` float32, sum of the entropies in nats; without gradient."""

    n_tokens: Tensor
    """`[]` int64."""


def route(logits: Tensor, k: int, selection_bias: Tensor | None = None) -> Routing:
    """Choose `k` experts for each token.

    Args:
        logits: float32 `[N, E]`.
        k: experts a token.
        selection_bias: `[E]` is added to the probabilities when experts are chosen, and not to their weights.
    """
    probabilities = torch.softmax(logits, dim=-1)
    if selection_bias is None:
        weights, chosen = probabilities.topk(k, dim=-1)
    else:
        chosen = (probabilities.detach() + selection_bias).topk(k, dim=-1).indices
        weights = probabilities.gather(-1, chosen)
    return Routing(logits, probabilities, weights, chosen)


def router_statistics(routing: Routing, counted: Tensor | None = None) -> RouterStatistics:
    """Sums over tokens.

    Args:
        routing: of N tokens.
        counted: boolean `[N]`, False on tokens to leave out, such as padding; None: all count.
    """
    logits, probabilities, _, chosen = routing
    n_experts = logits.shape[-1]
    if counted is None:
        counted = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    share = counted.to(probabilities.dtype)  # [N]
    # Choices that do not count go to a bin of their own; indexing by the mask would have a shape that depends on data.
    bins = torch.where(counted[:, None], chosen, n_experts)
    with torch.no_grad():
        logs = torch.log_softmax(logits, dim=-1)
        entropy = -((logs.exp() * logs).sum(dim=-1) * share).sum()
    return RouterStatistics(
        load=torch.bincount(bins.flatten(), minlength=n_experts + 1)[:n_experts],
        probability=(probabilities * share[:, None]).sum(dim=0),
        squared_z=(torch.logsumexp(logits, dim=-1).square() * share).sum(),
        entropy=entropy,
        n_tokens=counted.sum(),
    )


def load_balance(statistics: RouterStatistics) -> Tensor:
    """Load balancing loss of each layer: E times the sum over experts of share of choices times mean probability.

    1 where choices and probabilities are even, E / k where all tokens choose the same k experts with certainty. The
    gradient flows through the probabilities.

    Args:
        statistics: of one layer, or of several in the first axis.

    Returns:
        `[]` or `[n_layers]` float32; 0 where no token counts.
    """
    choices = statistics.load.sum(dim=-1, keepdim=True).clamp(min=1)
    tokens = statistics.n_tokens.unsqueeze(-1).clamp(min=1)
    shares = statistics.load / choices
    return statistics.load.shape[-1] * (shares * statistics.probability / tokens).sum(dim=-1)


def router_z(statistics: RouterStatistics) -> Tensor:
    """Router z-loss of each layer, the mean squared logarithm of the softmax's divisor; 0 where no token counts."""
    return statistics.squared_z / statistics.n_tokens.clamp(min=1)


def imbalance(load: Tensor) -> Tensor:
    """Load of the fullest expert over the mean load, 1 to E; `[...]` for loads `[..., E]`, 1 where all are 0."""
    load = load.float()
    highest, total = load.amax(dim=-1), load.sum(dim=-1)
    return torch.where(total > 0, highest * load.shape[-1] / total.clamp(min=1), torch.ones_like(total))


def balanced_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """The selection bias `[E]` after a step: `rate` more for experts below the mean load, less for those above."""
    load = load.float()
    return bias + rate * torch.sign(load.mean() - load)

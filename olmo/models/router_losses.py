"""What the routers of a MolmoE add to the loss, and what is told of them."""

from __future__ import annotations

import torch

from olmo.nn.llm_config import LlmConfig
from olmo.nn.router import RouterStatistics, imbalance, load_balance, router_z


def router_aux(statistics: RouterStatistics, config: LlmConfig, has_losses: bool = True) -> dict[str, torch.Tensor]:
    """Losses and figures of a pass, means over the layers.

    Args:
        statistics: stacked over the layers; padding left out.
        config: has the weights of the losses.
        has_losses: make them; False tells the figures alone.

    Returns:
        `loss_load_balance` and `loss_router_z`, weighted, where their weight is above 0; `router_entropy` in nats,
        `router_imbalance` (load of the fullest expert over the mean load, 1 to E) and `router_load` `[n_layers, E]`.
    """
    aux = {
        "router_load": statistics.load,
        "router_entropy": (statistics.entropy / statistics.n_tokens.clamp(min=1)).mean(),
        "router_imbalance": imbalance(statistics.load).mean(),
    }
    if has_losses and config.load_balance_weight > 0.0:
        aux["loss_load_balance"] = config.load_balance_weight * load_balance(statistics).mean()
    if has_losses and config.router_z_weight > 0.0:
        aux["loss_router_z"] = config.router_z_weight * router_z(statistics).mean()
    return aux

"""AdamW over named components (connector, ViT, LLM, selector), each with its own learning rate and warm-up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from olmo.exceptions import OLMoConfigurationError
from olmo.train.optim.config import ComponentConfig, OptimizerConfig
from olmo.train.optim.schedule import warmup_cosine
from olmo.train.parallel.sharding import by_layout

Components = Mapping[str, Mapping[str, nn.Parameter]]
"""Parameters by component (`connector`, `vit`, `llm`, `selector`) and name."""

EMBEDDING = "llm.wte.embedding"
"""Name of the base table of token embeddings."""


def component_configs(config: OptimizerConfig) -> dict[str, ComponentConfig]:
    """The settings by component name."""
    return {"connector": config.connector, "vit": config.vit, "llm": config.llm, "selector": config.selector}


def freeze(components: Components, config: OptimizerConfig) -> None:
    """Stop gradients for what the recipe keeps as it is. What is frozen already (under adapters, say) stays so.

    Call it before parameters are sharded.
    """
    settings = component_configs(config)
    for component, parameters in components.items():
        for name, parameter in parameters.items():
            if settings[component].is_frozen or (config.is_embedding_frozen and name == EMBEDDING):
                parameter.requires_grad_(False)


def build_optimizer(components: Components, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with groups of matrices (decayed) and vectors (never decayed) for each component.

    Args:
        components: parameters by component name and parameter name; those without gradient are left out.
        config: learning rates and so on.

    Returns:
        The optimizer; each group carries `component`, `names` and `peak_lr`.

    Raises:
        OLMoConfigurationError: nothing is left to train.
    """
    settings = component_configs(config)
    groups = []
    for component, parameters in components.items():
        for decay, wants_matrix in ((config.weight_decay, True), (0.0, False)):
            chosen = {n: p for n, p in parameters.items() if p.requires_grad and (p.ndim >= 2) == wants_matrix}
            groups += [
                {
                    "params": list(alike.values()),
                    "names": list(alike),
                    "component": component,
                    "peak_lr": settings[component].lr,
                    "weight_decay": decay,
                }
                for alike in by_layout(chosen)
            ]
    if not groups:
        raise OLMoConfigurationError("every component is frozen, so there is nothing to train", "optimizer")
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, max_steps: int
) -> dict[str, float]:
    """Set every group's rate for `step`; returns the rate of each component."""
    settings = component_configs(config)
    rates = {}
    for group in optimizer.param_groups:
        component = group["component"]
        first = settings[component].first_step
        factor = 0.0
        if step >= first:
            factor = warmup_cosine(
                step - first,
                warmup_steps=settings[component].warmup_steps,
                max_steps=max_steps - first,
                final_ratio=config.final_lr_ratio,
            )
        rates[component] = group["lr"] = group["peak_lr"] * factor
    return rates


def trained_parameters(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, nn.Parameter]]:
    """The optimizer's parameters by component and name."""
    found: dict[str, dict[str, nn.Parameter]] = {}
    for group in optimizer.param_groups:
        found.setdefault(group["component"], {}).update(zip(group["names"], group["params"], strict=True))
    return found

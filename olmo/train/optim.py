"""AdamW over named components (connector, ViT, LLM), each with its own learning rate, warm-up and clipping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from olmo.train.schedule import warmup_cosine
from olmo.train.train_config import ComponentConfig, OptimizerConfig


def component_configs(config: OptimizerConfig) -> dict[str, ComponentConfig]:
    """The settings by component name."""
    return {"connector": config.connector, "vit": config.vit, "llm": config.llm}


def build_optimizer(components: Mapping[str, Mapping[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with two groups a component: matrices (decayed) and vectors (never decayed).

    Args:
        components: parameters by component name and parameter name; frozen components stop requiring gradients.
        config: learning rates and so on.

    Returns:
        The optimizer; each group carries `component`, `names` and `peak_lr`.
    """
    settings = component_configs(config)
    groups = []
    for component, parameters in components.items():
        for parameter in parameters.values():
            parameter.requires_grad_(not settings[component].is_frozen)
        if settings[component].is_frozen:
            continue
        for decay, wants_matrix in ((config.weight_decay, True), (0.0, False)):
            chosen = {n: p for n, p in parameters.items() if (p.ndim >= 2) == wants_matrix}
            if chosen:
                groups.append(
                    {
                        "params": list(chosen.values()),
                        "names": list(chosen),
                        "component": component,
                        "peak_lr": settings[component].lr,
                        "weight_decay": decay,
                    }
                )
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, max_steps: int
) -> dict[str, float]:
    """Set every group's rate for `step`; returns the rate of each component."""
    settings = component_configs(config)
    rates = {}
    for group in optimizer.param_groups:
        component = group["component"]
        factor = warmup_cosine(
            step,
            warmup_steps=settings[component].warmup_steps,
            max_steps=max_steps,
            final_ratio=config.final_lr_ratio,
        )
        rates[component] = group["lr"] = group["peak_lr"] * factor
    return rates


def clip_by_component(optimizer: torch.optim.Optimizer, clip_norm: float) -> dict[str, float]:
    """Clip the gradient norm of each component to `clip_norm` (0: only measure); returns the norms before."""
    by_component: dict[str, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        by_component.setdefault(group["component"], []).extend(group["params"])
    limit = clip_norm if clip_norm > 0 else float("inf")
    return {name: float(nn.utils.clip_grad_norm_(ps, limit)) for name, ps in by_component.items()}

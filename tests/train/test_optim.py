from __future__ import annotations

import pytest
import torch
from torch import nn

from olmo.train.optim import build_optimizer, clip_by_component, set_learning_rates
from olmo.train.train_config import ComponentConfig, OptimizerConfig


def components() -> dict[str, dict[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator))  # noqa: E731
    return {
        "connector": {"c.weight": make(3, 3)},
        "vit": {"v.weight": make(3, 3), "v.bias": make(3)},
        "llm": {"l.weight": make(3, 3), "l.norm": make(3)},
    }


def config(**changes: object) -> OptimizerConfig:
    values = {
        "connector": ComponentConfig(lr=1e-2, warmup_steps=0),
        "vit": ComponentConfig(lr=1e-3, warmup_steps=4),
        "llm": ComponentConfig(lr=1e-4, warmup_steps=9),
        "weight_decay": 0.1,
    }
    return OptimizerConfig(**(values | changes))


def test_each_component_has_its_own_rate_and_warm_up() -> None:
    settings = config()
    optimizer = build_optimizer(components(), settings)
    rates = set_learning_rates(optimizer, settings, step=0, max_steps=100)
    assert rates["connector"] == pytest.approx(1e-2)
    assert rates["vit"] == pytest.approx(1e-3 / 5)
    assert rates["llm"] == pytest.approx(1e-4 / 10)
    for group in optimizer.param_groups:
        assert group["lr"] == rates[group["component"]]


def test_only_matrices_decay() -> None:
    for group in build_optimizer(components(), config()).param_groups:
        is_matrix = all(p.ndim >= 2 for p in group["params"])
        assert group["weight_decay"] == (0.1 if is_matrix else 0.0)


def test_a_frozen_component_is_left_out_and_needs_no_gradient() -> None:
    parts = components()
    optimizer = build_optimizer(parts, config(vit=ComponentConfig(is_frozen=True)))
    assert {g["component"] for g in optimizer.param_groups} == {"connector", "llm"}
    assert not any(p.requires_grad for p in parts["vit"].values())
    assert all(p.requires_grad for p in parts["llm"].values())


def test_each_component_is_clipped_on_its_own() -> None:
    parts = components()
    optimizer = build_optimizer(parts, config())
    for scale, named in zip((10.0, 0.01, 5.0), parts.values(), strict=True):
        for parameter in named.values():
            parameter.grad = torch.full_like(parameter, scale)
    before = clip_by_component(optimizer, 1.0)
    norm = lambda named: torch.cat([p.grad.flatten() for p in named.values()]).norm().item()  # noqa: E731
    assert before["connector"] == pytest.approx(30.0)
    assert norm(parts["connector"]) == pytest.approx(1.0, rel=1e-4)
    assert norm(parts["llm"]) == pytest.approx(1.0, rel=1e-4)
    assert norm(parts["vit"]) == pytest.approx(before["vit"])  # already small: untouched


def test_clip_norm_zero_only_measures() -> None:
    parts = components()
    optimizer = build_optimizer(parts, config())
    for named in parts.values():
        for parameter in named.values():
            parameter.grad = torch.full_like(parameter, 7.0)
    clip_by_component(optimizer, 0.0)
    assert all((p.grad == 7.0).all() for named in parts.values() for p in named.values())

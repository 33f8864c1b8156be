from __future__ import annotations

import pytest
import torch
from torch import nn

from olmo.exceptions import OLMoConfigurationError
from olmo.train.optim.adamw import build_optimizer, freeze, set_learning_rates, trained_parameters
from olmo.train.optim.config import ComponentConfig, OptimizerConfig


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
    settings = config(vit=ComponentConfig(is_frozen=True))
    freeze(parts, settings)
    optimizer = build_optimizer(parts, settings)
    assert {g["component"] for g in optimizer.param_groups} == {"connector", "llm"}
    assert not any(p.requires_grad for p in parts["vit"].values())
    assert all(p.requires_grad for p in parts["llm"].values())


def test_the_base_table_alone_can_be_frozen() -> None:
    parts = components()
    parts["llm"]["llm.wte.embedding"] = nn.Parameter(torch.zeros(4, 3))
    settings = config(is_embedding_frozen=True)
    freeze(parts, settings)
    trained = trained_parameters(build_optimizer(parts, settings))
    assert set(trained["llm"]) == {"l.weight", "l.norm"}


def test_nothing_to_train_is_an_error() -> None:
    parts = components()
    settings = config(**{name: ComponentConfig(is_frozen=True) for name in parts})
    freeze(parts, settings)
    with pytest.raises(OLMoConfigurationError, match="nothing to train"):
        build_optimizer(parts, settings)

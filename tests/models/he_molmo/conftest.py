"""A tiny HeMolmo: the tiny Molmo of `tests/models` with a token selector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from he_models import opinionated

from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.molmo.molmo_config import MolmoConfig

MakeHeConfig = Callable[..., HeMolmoConfig]
MakeHeModel = Callable[..., HeMolmo]


@pytest.fixture(scope="session")
def make_he_config(make_config: Callable[..., MolmoConfig]) -> MakeHeConfig:
    """`make_he_config(selection_ratio=0.5, token_scorer={"scorer": "norm"}, llm__n_layers=3)`."""

    def make(**fields: Any) -> HeMolmoConfig:
        dotted = {name: value for name, value in fields.items() if "__" in name}
        own = {name: value for name, value in fields.items() if "__" not in name}
        scorer = {"hidden_size": 16, "query_size": 8, **own.pop("token_scorer", {})}
        return HeMolmoConfig.from_molmo(
            make_config(**dotted), **{"pooling_h": 2, "pooling_w": 2, "token_scorer": scorer, **own}
        )

    return make


@pytest.fixture(scope="session")
def make_he_model(make_he_config: MakeHeConfig) -> MakeHeModel:
    """`make_he_model(selection_ratio=0.5)`: a random model in eval mode whose scorer has an opinion."""
    made: dict[str, HeMolmo] = {}

    def make(seed: int = 0, **fields: Any) -> HeMolmo:
        key = repr((seed, sorted(fields.items())))
        if key not in made:
            made[key] = opinionated(HeMolmo(make_he_config(**fields), seed=seed)).eval()
        return made[key]

    return make

from __future__ import annotations

import pytest

from olmo.data.scenes import Scene, ScenesConfig, make_scene


@pytest.fixture(scope="session")
def config() -> ScenesConfig:
    return ScenesConfig()


@pytest.fixture(scope="session")
def scenes(config: ScenesConfig) -> list[Scene]:
    return [make_scene(seed, config) for seed in range(150)]

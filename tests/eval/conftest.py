from __future__ import annotations

from pathlib import Path

import pytest

from olmo.data.scenes.dataset import ScenesDataset
from olmo.eval.scenes_eval import Item
from olmo.models.molmo.molmo import Molmo, MolmoConfig

N_SCENES = 10
TINY = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=1", "llm.mlp_hidden_size=32", "vision_backbone.vit.image_size=56",
    "vision_backbone.vit.d_model=24", "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=1",
    "vision_backbone.vit.mlp_hidden_size=32", "vision_backbone.vit_layers=[-1]",
    "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


@pytest.fixture(scope="session")
def nano_config_dir() -> Path:
    return Path(__file__).resolve().parents[2] / "configs" / "molmo-nano"


@pytest.fixture(scope="session")
def tiny_config(nano_config_dir: Path) -> MolmoConfig:
    """The nano model's shape of prompt and tokenizer, with hardly any weights."""
    return MolmoConfig.load(nano_config_dir, TINY)


@pytest.fixture(scope="session")
def tiny_model(tiny_config: MolmoConfig) -> Molmo:
    return Molmo(tiny_config).eval()


@pytest.fixture(scope="session")
def items() -> list[Item]:
    return ScenesDataset().evaluation_items(N_SCENES)

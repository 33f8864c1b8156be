"""A tiny untrained model, and a server that answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import LocalServer, serving

from olmo.models.molmo.molmo import Molmo, MolmoConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=1", "llm.mlp_hidden_size=32", "vision_backbone.vit.image_size=56",
    "vision_backbone.vit.d_model=24", "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=1",
    "vision_backbone.vit.mlp_hidden_size=32", "vision_backbone.vit_layers=[-1]",
    "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


@pytest.fixture(scope="session")
def model() -> Molmo:
    return Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", TINY)).eval()


@pytest.fixture(scope="session")
def local(model: Molmo) -> Iterator[LocalServer]:
    """The server that most tests ask."""
    with serving(model) as server:
        yield server

"""What tests of the command line share: a tiny model to build, and an answer to put in its mouth."""

from __future__ import annotations

from pathlib import Path

from olmo.models.molmo.molmo import Molmo, MolmoConfig

ROOT = Path(__file__).resolve().parents[1]
POINTS = '<points x1="10.0" y1="25.0" x2="50.5" y2="75.0" alt="cats">cats</points>'
OVERRIDES = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=2", "llm.mlp_hidden_size=48",
    "vision_backbone.vit.image_size=84", "vision_backbone.vit.d_model=32", "vision_backbone.vit.n_heads=2",
    "vision_backbone.vit.n_layers=3", "vision_backbone.vit.mlp_hidden_size=48",
    "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


def save_tiny_model(folder: Path) -> None:
    """Write a native checkpoint of the shape of molmo-nano, much smaller and untrained, in shards."""
    Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", OVERRIDES)).save_checkpoint(folder)

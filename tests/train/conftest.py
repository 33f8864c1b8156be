"""A recipe small enough to train in a test: two tiny blocks, 84 px scenes of one object."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_scenes import SCENES

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "configs" / "molmo-nano"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A language recipe on a tiny model; its run folder is `tmp_path / "run"`."""
    model = yaml.safe_load((NANO / "config.yaml").read_text())
    model["llm"] |= {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48}
    model["vision_backbone"]["vit"] |= {
        "image_size": 84, "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48,
    }  # fmt: skip
    model["vision_backbone"] |= {"vit_layers": [-1], "projector_hidden_size": 32}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").write_text(yaml.safe_dump(model))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NANO / name, tmp_path / "model" / name)
    component = {"lr": 3e-3, "warmup_steps": 2}
    values = {
        "task": "language",
        "model": "model",
        "run_dir": str(tmp_path / "run"),
        "data": {"sources": [{"kind": "scenes", "scenes": SCENES}]},
        "batch_size": 4,
        "max_steps": 6,
        "n_workers": 0,
        "n_threads": 1,
        "optimizer": {"connector": dict(component), "vit": dict(component), "llm": dict(component)},
        "checkpoint": {"every_steps": 3},
        "watch": {"every_steps": 1, "console": "none"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def change(recipe: Path) -> Callable[..., Path]:
    """Rewrites the recipe with other top-level values and returns it."""

    def rewrite(**changes: Any) -> Path:
        recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))
        return recipe

    return rewrite

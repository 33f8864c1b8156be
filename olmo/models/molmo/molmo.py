"""`Molmo`: pictures and text in, text out. The base model of the family; everything it does is `ModelBase`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from olmo.models.base import ModelBase
from olmo.models.molmo.load import load_molmo, save_molmo
from olmo.models.molmo.molmo_config import MolmoConfig

__all__ = ["Molmo", "MolmoConfig"]


class Molmo(ModelBase):
    """Molmo multimodal model. See `ModelBase` for `forward`, `generate`, `from_pretrained` and checkpoints."""

    @classmethod
    def _load_pretrained(cls, model: str | Path, **options: Any) -> Self:
        return load_molmo(cls, model, **options)

    def save_pretrained_hf(self, path: str | Path) -> None:
        """Write the layout of the released models, dense or MolmoE; see `ModelBase.save_pretrained_hf`."""
        save_molmo(self, path)

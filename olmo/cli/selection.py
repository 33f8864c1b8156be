"""What a HeMolmo kept of the pictures of one question, as it is handed out: figures for JSON, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from olmo.cli.answer import write_picture
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.he_molmo.kept_patches import count_kept, draw_selection


@dataclass(frozen=True)
class Selection:
    """The picture tokens that were kept."""

    aux: Mapping[str, torch.Tensor] | None
    """What the model told of its choice; None where there was no picture."""

    inputs: Mapping[str, Any]
    """What it was shown, with decoded pictures."""

    config: HeMolmoConfig
    """Configuration of the model."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON: `ratio`, and the picture tokens that were `kept` of a `total`."""
        n_kept, n_tokens = count_kept(self.aux, self.inputs, self.config)
        return {"ratio": self.config.selection_ratio, "kept": n_kept, "total": n_tokens}

    def save(self, path: Path, names: tuple[str, ...]) -> str:
        """Write the pictures or frames with what was kept; what was at `path` is replaced at once or not at all.

        Args:
            path: file to write.
            names: paths of the pictures or videos.

        Returns:
            What was written, for the user.

        Raises:
            OLMoInputError: it is not known what was kept of which crop or frame.
        """
        write_picture(draw_selection(self.aux, self.inputs, self.config, names=names), path)
        n_kept, n_tokens = count_kept(self.aux, self.inputs, self.config)
        return f"{n_kept} of {n_tokens} picture tokens kept, shown on {path}"

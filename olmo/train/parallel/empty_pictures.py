"""A crop that feeds no token, for batches of text among batches with pictures.

Where weights are sharded, every process takes part in gathering every layer. A process whose micro-batch holds no
picture would pass over the picture encoder and leave the others waiting. With one unused crop it runs the encoder on
nothing at all: no arithmetic, all the messages, gradients of zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.preprocessing.image_tokens import UNUSED


def with_pictures(batch: Mapping[str, Any], config: MolmoConfig) -> dict[str, Any]:
    """The batch, with one unused crop a row where it holds no picture and the model has a picture encoder.

    Args:
        batch: arguments of the model's `forward`, with `input_ids` `[B, L]` or `[L]`.
        config: the model.
    """
    if batch.get("images") is not None or config.vision_backbone is None:
        return dict(batch)
    vision, ids = config.vision_backbone, batch["input_ids"]
    spec, (high, wide) = vision.vit.spec, vision.tokens_per_side
    rows, device = 1 if ids.ndim == 1 else len(ids), ids.device
    return {
        **batch,
        "images": torch.zeros(rows, 1, spec.n_patches, 3 * spec.patch_size**2, device=device),
        "image_masks": torch.full((rows, 1, spec.n_patches), -1.0, device=device),
        "image_input_idx": torch.full((rows, 1, high * wide), UNUSED, dtype=torch.int64, device=device),
    }

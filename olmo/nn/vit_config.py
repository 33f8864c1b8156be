"""Configuration of the picture encoder: one ViT that is CLIP, SigLIP, DINOv2 or MetaCLIP by its preset.

`VitConfig` holds only what a person sets; `VitConfig.spec` fills the rest from the preset of `image_model_type`, so
that choosing another encoder later changes everything that was not set explicitly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError
from olmo.nn.vit_presets import VIT_PRESETS, VitSpec


class ImageModelType(ConfigEnum):
    """Published encoder families."""

    openai = "openai"
    siglip = "siglip"
    dino = "dino"
    metaclip = "metaclip"


class ResizeMode(ConfigEnum):
    """`default` keeps the aspect and pads; the others stretch, each with the filter its encoder was trained with."""

    default = "default"
    siglip = "siglip"
    dino = "dino"
    metaclip = "metaclip"


@dataclass(kw_only=True)
class VitConfig(BaseConfig):
    """Picture encoder; every field but the first defaults to the preset of `image_model_type`."""

    image_model_type: ImageModelType = ImageModelType.openai
    """Family: `openai` (CLIP), `siglip`, `dino` (DINOv2) or `metaclip`."""

    image_size: int | None = None
    """Side of the square input, in pixels; a multiple of patch_size."""

    patch_size: int | None = None
    """Side of a patch, in pixels."""

    d_model: int | None = None
    """Width."""

    n_heads: int | None = None
    """Attention heads."""

    n_layers: int | None = None
    """Transformer blocks that exist in the weights."""

    mlp_hidden_size: int | None = None
    """Inner width of the feed-forward."""

    norm_eps: float | None = None
    """Epsilon of the layer norms."""

    resize: ResizeMode | None = None
    """How pictures are brought to image_size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "patch_size", "d_model", "n_heads", "n_layers", "mlp_hidden_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {value}", name)
        spec = self.spec
        if spec.image_size % spec.patch_size:
            raise OLMoConfigurationError(
                f"{spec.image_size} is not a multiple of patch_size {spec.patch_size}", "image_size"
            )
        if spec.d_model % spec.n_heads:
            raise OLMoConfigurationError(f"{spec.n_heads} heads do not divide d_model {spec.d_model}", "n_heads")

    @property
    def spec(self) -> VitSpec:
        """The preset with what was set explicitly put over it."""
        explicit: dict[str, Any] = {
            f.name: str(getattr(self, f.name)) if f.name == "resize" else getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "image_model_type" and getattr(self, f.name) is not None
        }
        return dataclasses.replace(VIT_PRESETS[self.image_model_type.value], **explicit)

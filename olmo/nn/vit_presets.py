"""The published picture encoders as data. Source: `molmo` technical notes of the released models, section 2.

Adding an encoder is one entry here, one name in `ImageModelType` and one parity case in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class VitSpec:
    """Everything that defines an encoder and the pixels it wants."""

    image_size: int
    patch_size: int
    d_model: int
    n_heads: int
    n_layers: int
    mlp_hidden_size: int
    activation: str  # "quick_gelu", "gelu" (exact) or "gelu_tanh"
    norm_eps: float
    has_class_token: bool
    has_pre_norm: bool
    has_patch_bias: bool
    has_layer_scale: bool
    features_from: tuple[int, ...]  # which block outputs feed the connector, counted from the end
    resize: str  # how pictures come to size: "default" (keep aspect, pad), "siglip", "dino", "metaclip" (stretch)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def n_patches(self) -> int:
        """Patches of one picture, without the class token."""
        return self.grid**2


# fmt: off
VIT_PRESETS: dict[str, VitSpec] = {
    # 23 of the 24 published CLIP blocks: the last one feeds only the pooled embedding.
    "openai": VitSpec(
        image_size=336, patch_size=14, d_model=1024, n_heads=16, n_layers=23, mlp_hidden_size=4096,
        activation="quick_gelu", norm_eps=1e-5, has_class_token=True, has_pre_norm=True, has_patch_bias=False,
        has_layer_scale=False, features_from=(-2, -9), resize="default", mean=CLIP_MEAN, std=CLIP_STD,
    ),
    "siglip": VitSpec(
        image_size=378, patch_size=14, d_model=1152, n_heads=16, n_layers=27, mlp_hidden_size=4304,
        activation="gelu_tanh", norm_eps=1e-6, has_class_token=False, has_pre_norm=False, has_patch_bias=True,
        has_layer_scale=False, features_from=(-3, -9), resize="siglip", mean=SIGLIP_MEAN, std=SIGLIP_STD,
    ),
    "dino": VitSpec(
        image_size=336, patch_size=14, d_model=1024, n_heads=16, n_layers=24, mlp_hidden_size=4096,
        activation="gelu", norm_eps=1e-6, has_class_token=True, has_pre_norm=False, has_patch_bias=True,
        has_layer_scale=True, features_from=(-3, -9), resize="dino", mean=IMAGENET_MEAN, std=IMAGENET_STD,
    ),
    "metaclip": VitSpec(
        image_size=336, patch_size=14, d_model=1024, n_heads=16, n_layers=24, mlp_hidden_size=4096,
        activation="quick_gelu", norm_eps=1e-5, has_class_token=True, has_pre_norm=True, has_patch_bias=False,
        has_layer_scale=False, features_from=(-3, -9), resize="metaclip", mean=CLIP_MEAN, std=CLIP_STD,
    ),
}
# fmt: on

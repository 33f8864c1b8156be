"""Configuration of the vision backbone: picture encoder, padding embedding, pooling and projector."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError
from olmo.nn.vit_config import ImageModelType, VitConfig


class ImagePooling(ConfigEnum):
    """How a window of patch features becomes one picture token."""

    attention_meanq = "attention-meanq"
    attention = "attention"
    attention_2wide = "attention_2wide"
    stack = "stack"
    mean = "mean"
    none = "none"


class ImageProjector(ConfigEnum):
    """How pooled features reach the width of the LLM."""

    mlp = "mlp"
    two_mlp = "2mlp"
    linear = "linear"


class ImagePaddingEmbed(ConfigEnum):
    """Learned marks on patches that hold padding."""

    pad_embed = "pad_embed"
    pad_and_partial_pad = "pad_and_partial_pad"
    regress = "regress"


@dataclass(kw_only=True)
class MolmoVisionBackboneConfig(BaseConfig):
    """Vision backbone. `image_model_type` may be given here or as `vit.image_model_type`; both mean one thing."""

    image_model_type: InitVar[str | None] = None
    vit: VitConfig = field(default_factory=VitConfig)
    """Picture encoder."""

    vit_layers: list[int] | None = None
    """Block outputs that are concatenated, in this order, negative from the end; None means the encoder's preset."""

    image_pooling_2d: ImagePooling = ImagePooling.attention_meanq
    """Pooling over windows of image_pooling_h x image_pooling_w patches; `stack` concatenates the window, `none` keeps
    every patch (windows of 1 x 1)."""

    image_pooling_h: int = 2
    """Window height, in patches."""

    image_pooling_w: int = 2
    """Window width, in patches."""

    image_projector: ImageProjector = ImageProjector.mlp
    """`mlp` is SwiGLU without biases, `2mlp` adds a residual second one, `linear` a single matrix."""

    projector_hidden_size: int | None = None
    """Inner width of the projector; None means the LLM's mlp_hidden_size."""

    image_padding_embed: ImagePaddingEmbed | None = ImagePaddingEmbed.pad_and_partial_pad
    """Learned marks for padded patches, added before pooling; None switches them off."""

    image_feature_dropout: float = 0.0
    """Dropout on patch features before pooling, training only."""

    def __post_init__(self, image_model_type: str | None) -> None:
        super().__post_init__()
        if image_model_type is not None and not isinstance(image_model_type, property):
            self.vit = self.vit.replace(image_model_type=image_model_type)
        for name in ("image_pooling_h", "image_pooling_w", "projector_hidden_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {value}", name)
        if not 0.0 <= self.image_feature_dropout < 1.0:
            raise OLMoConfigurationError(
                f"must lie in [0, 1), got {self.image_feature_dropout}", "image_feature_dropout"
            )
        if not self.layers:
            raise OLMoConfigurationError(
                "must name at least one block; leave it out to take the encoder's own choice", "vit_layers"
            )
        if self.image_pooling_2d is ImagePooling.none and self.image_pooling_h * self.image_pooling_w != 1:
            self.image_pooling_h = self.image_pooling_w = 1
        for layer in self.layers:
            if not -self.vit.spec.n_layers <= layer < self.vit.spec.n_layers:
                raise OLMoConfigurationError(
                    f"{layer} is outside the {self.vit.spec.n_layers} blocks of the encoder; set vit_layers to blocks "
                    "that exist, or vit.n_layers to a larger number",
                    "vit_layers",
                )

    @property
    def layers(self) -> tuple[int, ...]:
        """Block outputs that feed the connector."""
        if self.vit_layers is not None:
            return tuple(self.vit_layers)
        return self.vit.spec.features_from

    @property
    def tokens_per_side(self) -> tuple[int, int]:
        """Pooled rows and columns of one crop; an odd grid is padded up to whole windows."""
        grid = self.vit.spec.grid
        return -(-grid // self.image_pooling_h), -(-grid // self.image_pooling_w)


def _image_model_type(self: MolmoVisionBackboneConfig) -> ImageModelType:
    """Family of the encoder (the same value as `vit.image_model_type`)."""
    return self.vit.image_model_type


# Set after the class is made: a dataclass reads the class attribute as the default of an InitVar.
MolmoVisionBackboneConfig.image_model_type = property(_image_model_type)  # type: ignore[attr-defined]

"""How much arithmetic a model does, in closed formulas: floating-point operations of its matrix products.

A product of `[m, k]` and `[k, n]` counts `2 m k n`. Attention counts every pair of tokens that the kernel looks at,
also those a mask hides. Norms, softmax, activations and elementwise work are left out, as everywhere where shares of a
device's peak are told. Adapters are left out too.

Source: Kaplan et al. 2020, section 2.1, with the attention term.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.vision_config import ImagePaddingEmbed, ImagePooling, ImageProjector, MolmoVisionBackboneConfig

PARTS = ("vit", "connector", "llm")
"""Parts of a model in the order data flows through them."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by part. The output head belongs to the language model."""

    vit: float = 0.0
    connector: float = 0.0
    llm: float = 0.0

    @property
    def total(self) -> float:
        """All parts together."""
        return self.vit + self.connector + self.llm


def forward_flops(config: MolmoConfig, *, n_tokens: int, n_pairs: int, n_crops: int = 0, n_logits: int = 0) -> Flops:
    """Operations of one forward pass.

    Args:
        config: the model.
        n_tokens: tokens that go through the language model, over all rows.
        n_pairs: pairs of query and key: the square of the length of a row, summed over rows; for one new token after
            S - 1 cached ones it is S.
        n_crops: crops that go through the picture encoder.
        n_logits: positions that logits are made for.
    """
    if min(n_tokens, n_pairs, n_crops, n_logits) < 0:
        raise OLMoInputError("counts of tokens, pairs, crops and logits must be 0 or more")
    vision = config.vision_backbone
    return Flops(
        vit=0.0 if vision is None else n_crops * vit_flops(vision),
        connector=0.0 if vision is None else n_crops * connector_flops(vision, config.llm),
        llm=llm_flops(config.llm, n_tokens, n_pairs, n_logits),
    )


def training_flops(forward: Flops, learning: Collection[str] = PARTS) -> Flops:
    """Operations of forward and backward pass.

    A part that learns needs as much again for its own gradient and for that of its input. Below the first part that
    learns nothing is sent back; that part itself still counts in full, its input's gradient being a small part of it.

    Args:
        forward: of the forward pass.
        learning: parts whose weights learn; under adapters none of the big matrices does, so leave the part out.
    """
    factors: dict[str, float] = {}
    is_reached = False
    for part in PARTS:
        learns = part in learning
        factors[part] = 1.0 + float(learns) + float(is_reached or learns)
        is_reached = is_reached or learns
    return Flops(**{part: factors[part] * getattr(forward, part) for part in PARTS})


def llm_flops(config: LlmConfig, n_tokens: int, n_pairs: int, n_logits: int = 0) -> float:
    """Operations of the language model; arguments as in `forward_flops`."""
    heads = config.n_heads * config.resolved_head_dim
    kv_heads = config.resolved_n_kv_heads * config.resolved_head_dim
    projections = 2 * config.d_model * (heads + 2 * kv_heads) + 2 * heads * config.d_model
    feed_forward = 3 * 2 * config.d_model * config.resolved_mlp_hidden_size
    if config.block_type is BlockType.olmoe:
        feed_forward = config.experts_per_token * feed_forward + 2 * config.d_model * config.n_experts
    scores_and_sums = 2 * 2 * heads
    blocks = config.n_layers * ((projections + feed_forward) * n_tokens + scores_and_sums * n_pairs)
    return float(blocks + 2 * config.d_model * config.resolved_embedding_size * n_logits)


def vit_flops(config: MolmoVisionBackboneConfig) -> float:
    """Operations of the picture encoder on one crop, as far as the deepest block that is read."""
    spec = config.vit.spec
    n_tokens, width = spec.n_patches + int(spec.has_class_token), spec.d_model
    n_blocks = 1 + max(layer % spec.n_layers for layer in config.layers)
    products = 2 * n_tokens * (4 * width * width + 2 * width * spec.mlp_hidden_size)
    attention = 2 * 2 * n_tokens * n_tokens * width
    embedding = 2 * spec.n_patches * 3 * spec.patch_size**2 * width
    return float(n_blocks * (products + attention) + embedding)


def connector_flops(config: MolmoVisionBackboneConfig, llm: LlmConfig) -> float:
    """Operations of pooling and projector on one crop. Scores within a window are elementwise and not counted."""
    rows, columns = config.tokens_per_side
    n_windows, n_members = rows * columns, config.image_pooling_h * config.image_pooling_w
    width = len(config.layers) * config.vit.spec.d_model
    has_two_marks = config.image_padding_embed is ImagePaddingEmbed.pad_and_partial_pad
    pooling = 2 * 2 * config.vit.spec.n_patches * width if has_two_marks else 0  # the marks are one product
    if config.image_pooling_2d in (ImagePooling.stack, ImagePooling.none):
        width *= n_members
    elif config.image_pooling_2d is not ImagePooling.mean:
        out = config.vit.spec.d_model * (2 if config.image_pooling_2d is ImagePooling.attention_2wide else 1)
        pooling += 2 * n_windows * (width * out * (1 + 2 * n_members) + out * out)
        width = out
    hidden = config.projector_hidden_size or llm.resolved_mlp_hidden_size
    if config.image_projector is ImageProjector.linear:
        return float(pooling + 2 * n_windows * width * llm.d_model)
    projector = 2 * width * hidden + hidden * llm.d_model
    if config.image_projector is ImageProjector.two_mlp:
        projector += 3 * hidden * llm.d_model
    return float(pooling + 2 * n_windows * projector)

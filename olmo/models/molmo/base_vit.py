"""Published picture encoders (CLIP, MetaCLIP, SigLIP, DINOv2) as Hugging Face writes them: sizes and tensor names.

Two pure functions: `vit_spec_overrides_from_hf` reads a `config.json`, `vit_weight_rules` lists which published tensors
make which of ours. Reading files and filling a model is the business of `checkpoint`. Final norms, pooling heads and
text towers are left behind.

Source: the tensor names in the published folders; the resizing of position tables as in the training of the released
models (technical notes on Molmo v1, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.checkpoint.weight_rules import WeightRule, only
from olmo.exceptions import OLMoCheckpointError
from olmo.nn.vit_config import ImageModelType, VitConfig
from olmo.nn.vit_presets import VIT_PRESETS


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How one family is written. A name given as a tuple was renamed over time: whichever is there is taken."""

    family: ImageModelType
    defaults: Mapping[str, Any]  # what config.json leaves out when it is the default
    activations: Mapping[str, str]  # upstream name -> ours
    patch_embedding: str
    class_embedding: str | None
    positions: str
    pre_norm: str | None
    block: str
    attention: Mapping[str, tuple[str, ...]]  # query, key, value, output
    norms: tuple[str, str]
    layer_scales: tuple[str, str] | None


_SELF_ATTENTION = {
    "query": ("self_attn.q_proj",), "key": ("self_attn.k_proj",),
    "value": ("self_attn.v_proj",), "output": ("self_attn.out_proj", "self_attn.o_proj"),
}  # fmt: skip
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
_BASE_MLP = {**_BASE, "intermediate_size": 3072}

_CLIP = _Layout(
    family=ImageModelType.openai,
    defaults={**_BASE_MLP, "patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
    activations={"quick_gelu": "quick_gelu"},
    patch_embedding="embeddings.patch_embedding",
    class_embedding="embeddings.class_embedding",
    positions="embeddings.position_embedding.weight",
    pre_norm="pre_layrnorm",
    block="encoder.layers.{}",
    attention=_SELF_ATTENTION,
    norms=("layer_norm1", "layer_norm2"),
    layer_scales=None,
)
_SIGLIP = _Layout(
    family=ImageModelType.siglip,
    defaults={**_BASE_MLP, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    activations={"gelu_pytorch_tanh": "gelu_tanh"},
    patch_embedding="embeddings.patch_embedding",
    class_embedding=None,
    positions="embeddings.position_embedding.weight",
    pre_norm=None,
    block="encoder.layers.{}",
    attention=_SELF_ATTENTION,
    norms=("layer_norm1", "layer_norm2"),
    layer_scales=None,
)
_DINO = _Layout(
    family=ImageModelType.dino,
    defaults={**_BASE, "mlp_ratio": 4, "patch_size": 14, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    activations={"gelu": "gelu"},
    patch_embedding="embeddings.patch_embeddings.projection",
    class_embedding="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    pre_norm=None,
    block="encoder.layer.{}",
    attention={
        "query": ("attention.attention.query", "attention.q_proj"),
        "key": ("attention.attention.key", "attention.k_proj"),
        "value": ("attention.attention.value", "attention.v_proj"),
        "output": ("attention.output.dense", "attention.o_proj"),
    },
    norms=("norm1", "norm2"),
    layer_scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
_LAYOUTS = {
    "clip": _CLIP, "clip_vision_model": _CLIP, "siglip": _SIGLIP, "siglip_vision_model": _SIGLIP, "dinov2": _DINO,
}  # fmt: skip


def vit_spec_overrides_from_hf(
    hf_config: Mapping[str, Any], image_model_type: ImageModelType | None = None
) -> VitConfig:
    """The encoder that a published `config.json` describes.

    The input side is cut down to whole patches (SigLIP's 384 becomes 378). CLIP loses its last block, which feeds only
    the pooled embedding, as in the preset.

    Args:
        hf_config: contents of `config.json`, of the encoder alone or with its text tower.
        image_model_type: family; None takes the one of `model_type`. MetaCLIP is published as `clip` and has to be
            named here.

    Returns:
        A configuration with every size set.

    Raises:
        OLMoCheckpointError: an unknown `model_type`, another family's weights, or an encoder that needs parts which
            none of our families has.
    """
    layout, values = _read_config(hf_config)
    family = image_model_type or layout.family
    if _base_family(family) is not layout.family:
        raise OLMoCheckpointError(
            f"config.json describes an encoder of the family {layout.family.value}, not {family.value}"
        )
    spec = VIT_PRESETS[family.value]
    activation = layout.activations.get(str(values["hidden_act"]))
    if activation != spec.activation or values.get("use_swiglu_ffn"):
        found = "a SwiGLU feed-forward" if values.get("use_swiglu_ffn") else f"hidden_act {values['hidden_act']!r}"
        allowed = ", ".join(layout.activations)
        raise OLMoCheckpointError(
            f"the encoder uses {found}; {family.value} encoders are supported with {allowed} only"
        )
    patch_size, width = int(values["patch_size"]), int(values["hidden_size"])
    n_layers = int(values["num_hidden_layers"])
    return VitConfig(
        image_model_type=family,
        image_size=int(values["image_size"]) // patch_size * patch_size,
        patch_size=patch_size,
        d_model=width,
        n_heads=int(values["num_attention_heads"]),
        n_layers=n_layers - 1 if family is ImageModelType.openai else n_layers,
        mlp_hidden_size=int(values["mlp_ratio"] * width if "mlp_ratio" in values else values["intermediate_size"]),
        norm_eps=float(values["layer_norm_eps"]),
    )


def vit_weight_rules(hf_config: Mapping[str, Any], config: VitConfig, available: Collection[str]) -> list[WeightRule]:
    """Rules that make every tensor of a `VisionTransformer` from a published encoder.

    Args:
        hf_config: contents of `config.json` beside the weights.
        config: the encoder to fill. It may have fewer blocks and another `image_size` than the published one: the
            position table is resized. All other sizes must agree.
        available: names of the published tensors. They may carry a prefix (`vision_model.` in a full CLIP checkpoint),
            and DINOv2's attention names may be those from before or after transformers 5.

    Returns:
        One rule a tensor, targets relative to the `VisionTransformer`.

    Raises:
        OLMoCheckpointError: the sizes do not agree, or tensors are missing; the message names them.
    """
    _check_sizes(hf_config, config)
    names = _Names(_read_config(hf_config)[0], frozenset(available))
    layout, spec = names.layout, config.spec
    rules = [
        WeightRule("patch_embedding.weight", names.one(f"{layout.patch_embedding}.weight"), _patch_matrix),
        WeightRule("positional_embedding", names.one(layout.positions), partial(_positions, grid=spec.grid)),
    ]
    if spec.has_patch_bias:
        rules.append(WeightRule("patch_embedding.bias", names.one(f"{layout.patch_embedding}.bias")))
    if layout.class_embedding is not None:
        rules.append(WeightRule("class_embedding", names.one(layout.class_embedding), torch.flatten))
    if layout.pre_norm is not None:
        rules += names.affine("pre_ln", [(layout.pre_norm,)])
    for index in range(spec.n_layers):
        rules += _block_rules(names, index)
    return rules


def _block_rules(names: _Names, index: int) -> list[WeightRule]:
    layout, ours = names.layout, f"blocks.{index}"
    theirs = layout.block.format(index)
    attention = {part: tuple(f"{theirs}.{n}" for n in known) for part, known in layout.attention.items()}
    rules = [
        *names.affine(f"{ours}.attention_norm", [(f"{theirs}.{layout.norms[0]}",)]),
        *names.affine(f"{ours}.attention.wqkv", [attention[part] for part in ("query", "key", "value")], _rows),
        *names.affine(f"{ours}.attention.wo", [attention["output"]]),
        *names.affine(f"{ours}.ffn_norm", [(f"{theirs}.{layout.norms[1]}",)]),
        *names.affine(f"{ours}.feed_forward.w1", [(f"{theirs}.mlp.fc1",)]),
        *names.affine(f"{ours}.feed_forward.w2", [(f"{theirs}.mlp.fc2",)]),
    ]
    for ours_scale, theirs_scale in zip(("lambda1", "lambda2"), layout.layer_scales or (), strict=False):
        rules.append(WeightRule(f"{ours}.{ours_scale}", names.one(f"{theirs}.{theirs_scale}")))
    return rules


class _Names:
    """Finds published names among those that are there, behind whatever prefix."""

    def __init__(self, layout: _Layout, available: frozenset[str]) -> None:
        self.layout, self.available = layout, available
        marker = f"{layout.patch_embedding}.weight"
        found = sorted((n.removesuffix(marker) for n in available if n == marker or n.endswith(f".{marker}")), key=len)
        if not found:
            raise OLMoCheckpointError(
                f"no tensor named {marker!r}, with or without a prefix, so these are not the weights of a "
                f"{layout.family.value} picture encoder as Hugging Face writes them"
            )
        self.prefix = found[0]

    def one(self, *alternatives: str) -> tuple[str]:
        """The first of `alternatives` that is there, as the sources of a rule."""
        for name in alternatives:
            if self.prefix + name in self.available:
                return (self.prefix + name,)
        raise OLMoCheckpointError(
            f"the encoder's weights have no tensor {' or '.join(repr(self.prefix + n) for n in alternatives)}; the "
            "checkpoint is incomplete or of another kind"
        )

    def affine(
        self, target: str, sources: list[tuple[str, ...]], combine: Callable[..., Tensor] = only
    ) -> list[WeightRule]:
        """Rules for a weight and a bias; each item of `sources` lists the names that one source may have."""
        rules = []
        for part in ("weight", "bias"):
            found = tuple(self.one(*(f"{name}.{part}" for name in known))[0] for known in sources)
            rules.append(WeightRule(f"{target}.{part}", found, combine))
        return rules


def _read_config(hf_config: Mapping[str, Any]) -> tuple[_Layout, dict[str, Any]]:
    """The layout and the values of the encoder, defaults filled in."""
    values = hf_config.get("vision_config") or hf_config  # with a text tower beside it, or alone
    model_type = str(hf_config.get("model_type"))
    if model_type not in _LAYOUTS:
        raise OLMoCheckpointError(
            f"model_type {model_type!r} is no picture encoder known here; known are {', '.join(map(repr, _LAYOUTS))}"
        )
    layout = _LAYOUTS[model_type]
    return layout, {**layout.defaults, **values}


def _base_family(family: ImageModelType) -> ImageModelType:
    """The family whose tensor names `family` has."""
    return ImageModelType.openai if family is ImageModelType.metaclip else family


def _check_sizes(hf_config: Mapping[str, Any], config: VitConfig) -> None:
    ours, theirs = config.spec, vit_spec_overrides_from_hf(hf_config, config.image_model_type).spec
    wrong = [
        f"{name} is {getattr(ours, name)}, published {getattr(theirs, name)}"
        for name in ("d_model", "n_heads", "mlp_hidden_size", "patch_size")
        if getattr(ours, name) != getattr(theirs, name)
    ]
    published_layers = int(_read_config(hf_config)[1]["num_hidden_layers"])
    if ours.n_layers > published_layers:
        wrong.append(f"n_layers is {ours.n_layers}, published {published_layers}")
    if wrong:
        raise OLMoCheckpointError(
            f"the configured encoder does not fit the published weights: {'; '.join(wrong)}; set these fields of "
            "vision_backbone.vit to the published values"
        )


def _patch_matrix(weight: Tensor) -> Tensor:
    """Convolution `[D, 3, p, p]` to a matrix over flat (row, column, channel) pixels `[D, p * p * 3]`."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _rows(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _positions(table: Tensor, grid: int) -> Tensor:
    """Position table `[(1,) n_old (+ 1), D]` for `grid` x `grid` patches: bicubic, class row kept.

    The factor aims a tenth of a patch past the wanted grid, as in the training of the released models (a habit from
    DINO, against rounding down), so the samples lie a little differently than with a plain target size.
    """
    table = table.reshape(-1, table.shape[-1])
    side = math.isqrt(table.shape[0])  # one class row more does not reach the next square number
    if side == grid:
        return table
    first, rest = table[: -side * side], table[-side * side :]
    square = rest.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1, D, side, side]
    factor = (grid + 0.1) / side
    resized = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
    return torch.cat((first, resized[0].flatten(1).t().to(table.dtype)))

"""Names of the released Molmo v1 weights and ours, both ways: dense models and MolmoE.

Two layouts have the same parts: the language model's blocks are named differently in MolmoE, and its experts are stored
one by one. Nothing is read here; `checkpoint/hf.py` applies the rules.
Source: the indexes of the released 7B-D and MolmoE-1B repositories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from olmo.checkpoint.weight_rules import WeightRule, join_rows
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.vision_config import ImagePooling, ImageProjector, MolmoVisionBackboneConfig

Names = Iterator[tuple[str, str]]
"""Pairs (our name, released name) of tensors that are stored alike."""

_PARTS_OF_MOLMO = ("llm.", "vision_backbone.")
_TRANSFORMER, _VISION = "model.transformer", "model.vision_backbone"
_HAS_ATTENTION_POOLING = (ImagePooling.attention_meanq, ImagePooling.attention, ImagePooling.attention_2wide)


def hf_weight_rules(config: MolmoConfig) -> list[WeightRule]:
    """Rules that make our tensors from those of the released layout, dense or MolmoE as `config` says."""
    rules = []
    for layer in range(config.llm.n_layers):
        rules += [WeightRule(ours, (theirs,)) for ours, theirs in _block_names(config.llm, layer)]
        if config.llm.block_type is BlockType.olmoe:
            rules += _join_expert_rules(config.llm, layer)
    rules += [WeightRule(ours, (theirs,)) for ours, theirs in _table_names(config.llm)]
    if config.vision_backbone is not None:
        rules += [WeightRule(ours, (theirs,)) for ours, theirs in _vision_names(config.vision_backbone)]
        rules += [WeightRule(ours, theirs, join_rows) for ours, theirs in _fused_names(config.vision_backbone)]
    return rules


def hf_export_rules(config: MolmoConfig) -> list[WeightRule]:
    """Rules that make the tensors of the released layout from ours; the inverse of `hf_weight_rules`."""
    rules = []
    for layer in range(config.llm.n_layers):
        rules += [WeightRule(theirs, (ours,)) for ours, theirs in _block_names(config.llm, layer)]
        if config.llm.block_type is BlockType.olmoe:
            rules += _split_expert_rules(config.llm, layer)
    rules += [WeightRule(theirs, (ours,)) for ours, theirs in _table_names(config.llm)]
    if config.vision_backbone is not None:
        rules += [WeightRule(theirs, (ours,)) for ours, theirs in _vision_names(config.vision_backbone)]
        for ours, parts in _fused_names(config.vision_backbone):
            rules += [WeightRule(part, (ours,), partial(_third_of_rows, index=i)) for i, part in enumerate(parts)]
    return rules


def further_names(names: Iterable[str]) -> Names:
    """Names of what a variant has besides a Molmo, of all of its tensors; none is in a released model."""
    yield from ((name, f"model.{name}") for name in names if not name.startswith(_PARTS_OF_MOLMO))


def _block_names(llm: LlmConfig, layer: int) -> Names:
    ours, theirs = f"llm.blocks.{layer}", f"{_TRANSFORMER}.blocks.{layer}"
    is_routed = llm.block_type is BlockType.olmoe
    attention = f"{theirs}.attn" if is_routed else theirs
    yield f"{ours}.attn_norm.weight", f"{attention}.attn_norm.weight"
    yield f"{ours}.attention.att_proj.weight", f"{attention}.att_proj.weight"
    if llm.qkv_bias:
        yield f"{ours}.attention.att_proj.bias", f"{attention}.att_proj.bias"
    yield f"{ours}.attention.attn_out.weight", f"{attention}.attn_out.weight"
    if llm.qk_norm:
        yield f"{ours}.attention.q_norm.weight", f"{attention}.q_norm.weight"
        yield f"{ours}.attention.k_norm.weight", f"{attention}.k_norm.weight"
    if is_routed:
        yield f"{ours}.ff_norm.weight", f"{theirs}.mlp.ff_norm.weight"
        yield f"{ours}.mlp.router.weight", f"{theirs}.mlp.gate.weight"
    else:
        yield f"{ours}.ff_norm.weight", f"{theirs}.ff_norm.weight"
        yield f"{ours}.mlp.ff_proj.weight", f"{theirs}.ff_proj.weight"
        yield f"{ours}.mlp.ff_out.weight", f"{theirs}.ff_out.weight"


def _table_names(llm: LlmConfig) -> Names:
    yield "llm.wte.embedding", f"{_TRANSFORMER}.wte.embedding"
    if llm.additional_vocab_size:
        yield "llm.wte.new_embedding", f"{_TRANSFORMER}.wte.new_embedding"
    yield "llm.ln_f.weight", f"{_TRANSFORMER}.ln_f.weight"
    if not llm.weight_tying:
        is_routed = llm.block_type is BlockType.olmoe
        yield "llm.lm_head.weight", "lm_head.weight" if is_routed else f"{_TRANSFORMER}.ff_out.weight"


def _vision_names(vision: MolmoVisionBackboneConfig) -> Names:
    for ours, theirs in _encoder_names(vision):
        yield f"vision_backbone.image_vit.{ours}", f"{_VISION}.image_vit.{theirs}"
    for name in _connector_names(vision):
        yield f"vision_backbone.connector.{name}", f"{_VISION}.{name}"


def _encoder_names(vision: MolmoVisionBackboneConfig) -> Names:
    spec = vision.vit.spec
    yield "positional_embedding", "positional_embedding"
    yield "patch_embedding.weight", "patch_embedding.weight"
    if spec.has_patch_bias:
        yield "patch_embedding.bias", "patch_embedding.bias"
    if spec.has_class_token:
        yield "class_embedding", "class_embedding"
    for kind in ("weight", "bias") if spec.has_pre_norm else ():
        yield f"pre_ln.{kind}", f"pre_ln.{kind}"
    for layer in range(spec.n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.resblocks.{layer}"
        for part in ("attention.wo", "feed_forward.w1", "feed_forward.w2", "attention_norm", "ffn_norm"):
            for kind in ("weight", "bias"):
                yield f"{ours}.{part}.{kind}", f"{theirs}.{part}.{kind}"
        for scale in ("lambda1", "lambda2") if spec.has_layer_scale else ():
            yield f"{ours}.{scale}", f"{theirs}.{scale}"


def _connector_names(vision: MolmoVisionBackboneConfig) -> Iterator[str]:
    if vision.image_padding_embed is not None:
        yield "pad_embed"
    if vision.image_pooling_2d in _HAS_ATTENTION_POOLING:
        for part in ("wq", "wk", "wv", "wo"):
            yield f"image_pooling_2d.{part}.weight"
            yield f"image_pooling_2d.{part}.bias"
    if vision.image_projector is ImageProjector.linear:
        yield "image_projector.weight"
    else:
        assert vision.image_projector is ImageProjector.mlp, "checked where the configuration is converted"
        for part in ("w1", "w2", "w3"):
            yield f"image_projector.{part}.weight"


def _fused_names(vision: MolmoVisionBackboneConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our query-key-value matrices and the three released ones each is made of."""
    for layer in range(vision.vit.spec.n_layers):
        ours, theirs = f"vision_backbone.image_vit.blocks.{layer}", f"{_VISION}.image_vit.transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            yield f"{ours}.attention.wqkv.{kind}", tuple(f"{theirs}.attention.{w}.{kind}" for w in ("wq", "wk", "wv"))


def _join_expert_rules(llm: LlmConfig, layer: int) -> list[WeightRule]:
    ours, theirs = f"llm.blocks.{layer}.mlp", f"{_TRANSFORMER}.blocks.{layer}.mlp.experts"
    experts = range(llm.n_experts)
    ups_gates = tuple(f"{theirs}.{e}.{part}.weight" for e in experts for part in ("up_proj", "gate_proj"))
    downs = tuple(f"{theirs}.{e}.down_proj.weight" for e in experts)
    return [
        WeightRule(f"{ours}.experts_in", ups_gates, _join_experts_in),
        WeightRule(f"{ours}.experts_out", downs, _join_experts_out),
    ]


def _split_expert_rules(llm: LlmConfig, layer: int) -> list[WeightRule]:
    ours, theirs = f"llm.blocks.{layer}.mlp", f"{_TRANSFORMER}.blocks.{layer}.mlp.experts"
    rules = []
    for expert in range(llm.n_experts):
        for half, part in enumerate(("up_proj", "gate_proj")):
            combine = partial(_expert_half, expert=expert, half=half)
            rules.append(WeightRule(f"{theirs}.{expert}.{part}.weight", (f"{ours}.experts_in",), combine))
        out = partial(_expert_out, expert=expert)
        rules.append(WeightRule(f"{theirs}.{expert}.down_proj.weight", (f"{ours}.experts_out",), out))
    return rules


def _third_of_rows(fused: Tensor, index: int) -> Tensor:
    return fused.chunk(3)[index]


def _join_experts_in(*ups_gates: Tensor) -> Tensor:
    """`[F, D]` up and gate matrices, expert after expert, as `[E, 2F, D]` with up first."""
    inner = ups_gates[0].shape[0]
    return torch.cat(ups_gates).unflatten(0, (-1, 2 * inner))


def _join_experts_out(*downs: Tensor) -> Tensor:
    """`[D, F]` matrices as `[E, D, F]`."""
    return torch.stack(downs)


def _expert_half(experts_in: Tensor, expert: int, half: int) -> Tensor:
    return experts_in[expert].chunk(2)[half]  # [F, D]


def _expert_out(experts_out: Tensor, expert: int) -> Tensor:
    return experts_out[expert]  # [D, F]

"""The flat configuration of the original Molmo code, as plain values of ours and back.

MolmoE's `config.json` and the `model` section of the original native releases are written in it; the `config.json` of
the dense models is the same under other names (`hf_config.py`). What would change the result of the model and is not
supported here raises; everything else that is not read has no influence on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.flat_fields import (
    ACTIVATIONS,
    CONNECTOR_FIELDS,
    ENCODER_FIELDS,
    FORMATTER_FIELDS,
    LLM_FIELDS,
    NO_INFLUENCE,
    PREPROCESSOR_FIELDS,
    SUPPORTED,
    WRITTEN_FORMATTER_FIELDS,
)
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType, NormType, RopeScalingType
from olmo.nn.vision_config import ImageProjector, MolmoVisionBackboneConfig
from olmo.nn.vit_presets import VIT_PRESETS


def values_from_flat(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Plain nested values for `MolmoConfig` from the flat form.

    Models of this form were trained with padding masks shifted by one crop, so `legacy_image_mask` is on unless the
    form says otherwise, which only this library writes.

    Args:
        flat: fields under the names of the original code. `vision_backbone` absent means CLIP ViT-L/14 at 336 pixels,
            and null means a language model alone.

    Raises:
        OLMoCheckpointError: a required field is absent, or one asks for mathematics that is not supported here.
    """
    require_supported(flat)
    for name in ("d_model", "n_heads", "n_layers", "vocab_size"):
        if name not in flat:
            raise OLMoCheckpointError(f"the configuration of the checkpoint has no {name!r}; get its files again")
    for name in ("d_model", "mlp_hidden_size", "mlp_ratio"):
        if not isinstance(flat.get(name), int | float | None):
            raise OLMoCheckpointError(f"{name!r} of the checkpoint's configuration is no number: {flat[name]!r}")
    values: dict[str, Any] = {"llm": _llm_values(flat)}
    values["vision_backbone"] = _vision_values(flat)
    values["mm_preprocessor"] = {"legacy_image_mask": True} | _given(flat, {k: k for k in PREPROCESSOR_FIELDS})
    values["data_formatter"] = _given(flat, FORMATTER_FIELDS)
    values["bi_directional_attn"] = flat.get("bi_directional_attn")
    return values


def flat_from_config(config: MolmoConfig) -> dict[str, Any]:
    """The flat form of a configuration, the inverse of `values_from_flat`.

    Raises:
        OLMoCheckpointError: the configuration has something that the flat form has no word for.
    """
    _require_expressible(config)
    llm = config.llm
    flat: dict[str, Any] = {theirs: getattr(llm, ours) for theirs, ours in LLM_FIELDS.items()}
    flat["embedding_size"] = llm.resolved_embedding_size
    flat["mlp_hidden_size"] = 2 * llm.resolved_mlp_hidden_size
    flat["rope_theta"] = llm.rope.theta
    flat["block_type"] = "moe" if llm.block_type is BlockType.olmoe else "sequential"
    if config.vision_backbone is None:
        flat["vision_backbone"] = None
    else:
        plain = config.vision_backbone.asdict()
        flat |= {name: plain[name] for name in CONNECTOR_FIELDS}
        flat["vit_layers"] = list(config.vision_backbone.layers)
        flat["vision_backbone"] = encoder_fields(config.vision_backbone)
    plain = config.mm_preprocessor.asdict()
    flat |= {name: plain[name] for name in PREPROCESSOR_FIELDS}
    plain = config.data_formatter.asdict()
    flat |= {theirs: plain[FORMATTER_FIELDS[theirs]] for theirs in WRITTEN_FORMATTER_FIELDS}
    flat["bi_directional_attn"] = None if config.bi_directional_attn is None else config.bi_directional_attn.value
    return flat


def require_supported(flat: Mapping[str, Any]) -> None:
    """Raise OLMoCheckpointError for fields that ask for other mathematics; warn of fields that are not known."""
    for name, allowed in SUPPORTED.items():
        if name in flat and not any(flat[name] == value and type(flat[name]) is type(value) for value in allowed):
            choices = ", ".join(map(repr, allowed[:4]))
            raise OLMoCheckpointError(
                f"the checkpoint has {name}={flat[name]!r}; this library computes only {name} = {choices}, so its "
                "results would be wrong"
            )
    known = {*SUPPORTED, *LLM_FIELDS, *CONNECTOR_FIELDS, *PREPROCESSOR_FIELDS, *FORMATTER_FIELDS, *NO_INFLUENCE}
    unknown = sorted(set(flat) - known)
    if unknown:
        warnings.warn(f"unknown fields of the checkpoint's configuration are ignored: {unknown}", stacklevel=4)


def encoder_fields(vision: MolmoVisionBackboneConfig) -> dict[str, Any]:
    """The `vision_backbone` dict of the released form: the picture encoder."""
    spec = vision.vit.spec
    fields: dict[str, Any] = {theirs: getattr(spec, ours) for theirs, ours in ENCODER_FIELDS.items()}
    return fields | {
        "image_model_type": vision.vit.image_model_type.value,
        "image_default_input_size": [spec.image_size, spec.image_size],
        "image_pos_patch_size": spec.patch_size,
        "image_num_key_value_heads": spec.n_heads,
        "image_head_dim": spec.d_model // spec.n_heads,
        "image_num_pos": spec.n_patches + int(spec.has_class_token),
        "image_mlp_activations": {v: k for k, v in ACTIVATIONS.items()}[spec.activation],
        "resize_mode": spec.resize,
    }


def _llm_values(flat: Mapping[str, Any]) -> dict[str, Any]:
    values = _given(flat, LLM_FIELDS)
    is_routed = flat.get("block_type") == "moe"
    values["block_type"] = "olmoe" if is_routed else "sequential"
    if not is_routed:
        values.pop("n_experts", None)
        values.pop("experts_per_token", None)
    # Their width is that of the joined up and gate matrix.
    doubled = flat.get("mlp_hidden_size") or flat.get("mlp_ratio", 4) * flat["d_model"]
    values["mlp_hidden_size"] = int(doubled) // 2
    values["additional_vocab_size"] = flat.get("additional_vocab_size", 128) or 0
    values["rope"] = {"theta": flat.get("rope_theta", 10_000.0)}
    values["tokenizer"] = {"identifier": "tokenizer.json"}
    return values


def _vision_values(flat: Mapping[str, Any]) -> dict[str, Any] | None:
    encoder = flat.get("vision_backbone", {})
    if encoder is None:
        return None
    if not isinstance(encoder, Mapping):
        raise OLMoCheckpointError(f"vision_backbone of the checkpoint's configuration is no mapping: {encoder!r}")
    values = _given(flat, {name: name for name in CONNECTOR_FIELDS})
    values.setdefault("vit_layers", [-2, -9])
    values.setdefault("image_padding_embed", "pad_and_partial_pad")
    if values.get("image_projector", "mlp") not in ("mlp", "linear"):
        raise OLMoCheckpointError(f"image_projector {values['image_projector']!r} is not 'mlp' or 'linear'")
    return values | {"vit": _encoder_values(encoder)}


def _encoder_values(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `VitConfig`; what follows from them in our encoder is compared with what the checkpoint says."""
    family = encoder.get("image_model_type", "openai")
    if family not in VIT_PRESETS:
        raise OLMoCheckpointError(f"vision_backbone.image_model_type {family!r} is not one of {', '.join(VIT_PRESETS)}")
    values = {"image_model_type": family} | _given(encoder, ENCODER_FIELDS)
    if "image_default_input_size" in encoder:
        size = encoder["image_default_input_size"]
        if not isinstance(size, list | tuple) or len(size) != 2 or size[0] != size[1]:
            raise OLMoCheckpointError(f"vision_backbone.image_default_input_size {size!r} is not two equal sides")
        values["image_size"] = size[0]
    built = MolmoVisionBackboneConfig.new(vit=values, vit_layers=[-1])
    implied = encoder_fields(built)
    for name in ("image_num_key_value_heads", "image_head_dim", "image_num_pos", "image_pos_patch_size", "resize_mode"):
        if name in encoder and encoder[name] != implied[name]:
            raise OLMoCheckpointError(
                f"vision_backbone.{name} is {encoder[name]!r}; the encoder of this library would have "
                f"{implied[name]!r} with the other sizes given"
            )
    activation = encoder.get("image_mlp_activations", implied["image_mlp_activations"])
    if ACTIVATIONS.get(activation) != built.vit.spec.activation:
        raise OLMoCheckpointError(
            f"vision_backbone.image_mlp_activations {activation!r} is not that of {family!r} encoders "
            f"({implied['image_mlp_activations']!r})"
        )
    return values


def _given(source: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: source[theirs] for theirs, ours in names.items() if theirs in source}


def _require_expressible(config: MolmoConfig) -> None:
    llm, vision = config.llm, config.vision_backbone
    problems = {
        "llm.norm_type": llm.norm_type is not NormType.rms,
        "llm.norm_has_weight": not llm.norm_has_weight,
        "llm.router_bias_rate": llm.router_bias_rate > 0.0,
        "llm.rope.scaling": llm.rope.scaling is not RopeScalingType.default,
        "vision_backbone.projector_hidden_size": vision is not None
        and vision.projector_hidden_size not in (None, llm.resolved_mlp_hidden_size),
        "vision_backbone.image_projector": vision is not None and vision.image_projector is ImageProjector.two_mlp,
    }
    found = [name for name, is_problem in problems.items() if is_problem]
    if found:
        raise OLMoCheckpointError(
            f"the released layout has no place for {', '.join(found)} as set in this model; use save_checkpoint"
        )

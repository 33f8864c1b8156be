"""`config.json` and `preprocessor_config.json` of the released Hugging Face layouts, both ways.

Two schemas: that of the dense models, and that of MolmoE, which is the flat form of the original code. `auto_map` and
whatever else names code is ignored.
Source: the files of the released 7B-D and MolmoE-1B repositories.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.flat_config import encoder_fields, flat_from_config, values_from_flat
from olmo.models.molmo.flat_fields import ROUTED_CONSTANTS
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType
from olmo.nn.vision_config import MolmoVisionBackboneConfig

DENSE_NAMES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "max_position_embeddings": "max_sequence_length",
    "initializer_range": "init_std",
}
"""Fields of the dense schema whose name differs from the flat form."""

DENSE_DEFAULTS = {
    "vocab_size": 50304,
    "embedding_size": 50304,
    "d_model": 4096,
    "mlp_hidden_size": 11008,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": None,
    "max_sequence_length": 2048,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
}
"""What the dense schema means by an absent field. Weights are tied by `weight_tying` alone: the released code has no
use for `tie_word_embeddings`, which is true where it is absent."""

_DENSE_FIELDS = ("vocab_size", "embedding_size", "layer_norm_eps", "rope_theta", "norm_after", "attention_layer_norm",
                 "qkv_bias", "clip_qkv", "weight_tying")  # fmt: skip
"""Fields of the dense schema that have the name of the flat form."""

_DENSE_IMPLIED = {
    "additional_vocab_size": 128, "embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0,
    "response_residual_dropout": 0.0, "image_pooling_2d": "attention-meanq", "image_pooling_h": 2, "image_pooling_w": 2,
    "image_projector": "mlp", "image_padding_embed": "pad_and_partial_pad", "image_feature_dropout": 0.0,
    "vit_layers": [-2, -9], "crop_mode": "overlap-and-resize-c2", "use_col_tokens": True, "legacy_image_mask": True,
    "bi_directional_attn": None, "prompt_type": "uber_model", "message_formatting": "role",
    "system_prompt_kind": "demo_or_style", "always_start_with_space": True, "default_inference_len": 65,
    "loss_token_weighting": "root_subsegments",
}  # fmt: skip
"""What the released dense code does whatever `config.json` says; other values are written as further fields."""


def config_values_from_hf(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Plain nested values for `MolmoConfig` from a released `config.json`.

    Args:
        config: content of `config.json`, dense or MolmoE.
        preprocessor: content of `preprocessor_config.json`, where there is one.

    Raises:
        OLMoCheckpointError: another kind of model, or one whose mathematics is not supported here.
    """
    if config.get("model_type", "molmo") != "molmo":
        raise OLMoCheckpointError(f"config.json is of a {config['model_type']!r} model; only 'molmo' is read here")
    is_flat = "d_model" in config
    values = values_from_flat(config if is_flat else _flat_from_dense(config))
    if preprocessor is not None and values["vision_backbone"] is not None:
        _compare_preprocessor(preprocessor, MolmoVisionBackboneConfig.new(**values["vision_backbone"]))
        values["mm_preprocessor"] |= {k: preprocessor[k] for k in ("max_crops", "overlap_margins") if k in preprocessor}
    return values


def hf_config_from(config: MolmoConfig, dtype: str = "float32") -> dict[str, Any]:
    """Content of `config.json` for a model: the MolmoE schema for routed ones, else the dense schema.

    The dense schema has fixed places only for what the released models vary; anything else is written as a further
    field, which this library reads back, and a warning says that other programs will not.

    Args:
        config: configuration of the model.
        dtype: data type of the weights, as written to `torch_dtype`.

    Raises:
        OLMoCheckpointError: the configuration has something that the released layout has no word for.
    """
    flat = flat_from_config(config)
    is_routed = config.llm.block_type is BlockType.olmoe
    fields, further = _routed_fields(flat) if is_routed else _dense_fields(config, flat)
    if further:
        warnings.warn(
            f"the released code does not read {sorted(further)} of config.json; this library reads them back, other "
            "programs will treat the model as if they had the released values",
            stacklevel=2,
        )
    return dict(sorted((fields | further | {"model_type": "molmo", "torch_dtype": dtype, "use_cache": True}).items()))


def _routed_fields(flat: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of MolmoE's schema, and those that the released code does not know."""
    further = {n: flat.pop(n) for n in ("legacy_image_mask", "bi_directional_attn")}
    fields = flat | ROUTED_CONSTANTS | {"architectures": ["OLMoForCausalLM"]}
    fields["max_position_embeddings"] = flat["max_sequence_length"]
    return fields, {name: value for name, value in further.items() if value != _DENSE_IMPLIED[name]}


def _dense_fields(config: MolmoConfig, flat: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the dense schema, and those that the released code does not know."""
    if config.llm.head_dim not in (None, config.llm.d_model // config.llm.n_heads):
        raise OLMoCheckpointError("the released dense layout has no place for llm.head_dim; use save_checkpoint")
    fields: dict[str, Any] = {theirs: flat[ours] for theirs, ours in DENSE_NAMES.items()}
    fields |= {name: flat[name] for name in _DENSE_FIELDS}
    fields |= {"architectures": ["MolmoForCausalLM"], "layer_norm_type": "rms", "use_position_ids": True}
    fields["num_key_value_heads"] = config.llm.resolved_n_kv_heads
    fields["tie_word_embeddings"] = config.llm.weight_tying
    further = {name: flat[name] for name, value in _DENSE_IMPLIED.items() if name in flat and flat[name] != value}
    if flat["vision_backbone"] != encoder_fields(MolmoVisionBackboneConfig()):
        further["vision_backbone"] = flat["vision_backbone"]
    return fields, further


def hf_preprocessor_config_from(config: MolmoConfig) -> dict[str, Any] | None:
    """Content of `preprocessor_config.json`; None for a model without pictures."""
    if config.vision_backbone is None:
        return None
    spec = config.vision_backbone.vit.spec
    rows, columns = config.vision_backbone.tokens_per_side
    return {
        "base_image_input_size": [spec.image_size, spec.image_size],
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "image_padding_mask": True,
        "image_patch_size": spec.patch_size,
        "image_token_length_h": rows,
        "image_token_length_w": columns,
        "max_crops": config.mm_preprocessor.max_crops,
        "overlap_margins": list(config.mm_preprocessor.overlap_margins),
        "image_processor_type": "MolmoImageProcessor",
        "processor_class": "MolmoProcessor",
    }


def _flat_from_dense(config: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {DENSE_NAMES.get(name, name): value for name, value in config.items()}
    flat = DENSE_DEFAULTS | renamed
    flat.setdefault("block_type", "sequential")
    return flat


def _compare_preprocessor(preprocessor: Mapping[str, Any], vision: MolmoVisionBackboneConfig) -> None:
    """Raise where the pixels that the checkpoint wants are not those that its encoder gets here."""
    spec = vision.vit.spec
    rows, columns = vision.tokens_per_side
    expected = {
        "base_image_input_size": [spec.image_size, spec.image_size],
        "image_patch_size": spec.patch_size,
        "image_token_length_h": rows,
        "image_token_length_w": columns,
        "do_normalize": True,
    }
    for name, value in expected.items():
        if name in preprocessor and preprocessor[name] != value:
            raise OLMoCheckpointError(
                f"preprocessor_config.json has {name}={preprocessor[name]!r}, but the encoder in config.json means "
                f"{value!r}"
            )
    for name, wanted in (("image_mean", spec.mean), ("image_std", spec.std)):
        given = preprocessor.get(name, wanted)
        if len(given) != 3 or not all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(given, wanted, strict=True)):
            raise OLMoCheckpointError(
                f"preprocessor_config.json has {name}={list(given)}; {vision.vit.image_model_type.value!r} encoders "
                f"take {list(wanted)}"
            )

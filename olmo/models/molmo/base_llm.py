"""Published base language models as the starting point of a Molmo: their configuration and weights in our names.

Covers the Hugging Face layouts `qwen2`, `llama`, `olmo`, `olmo2` and `olmoe`. It reads no files: it takes the parsed
`config.json`, and gives rules that `olmo.checkpoint` applies. Targets are relative to `olmo.nn.llm.Llm`.
Source: the configuration files and tensor names of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from olmo.checkpoint.weight_rules import WeightRule
from olmo.exceptions import OLMoConfigurationError
from olmo.nn.llm_config import LlmConfig

# What each family is, in our words. `rms_norm_eps` is the family's value where its config.json leaves it out.
_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"norm_eps": 1e-6, "qkv_bias": True},
    "llama": {"norm_eps": 1e-6},
    "olmo": {"norm_eps": 1e-5, "norm_type": "layer", "norm_has_weight": False},
    "olmo2": {"norm_eps": 1e-5, "norm_after": True, "qk_norm": True},
    "olmoe": {"norm_eps": 1e-5, "qk_norm": True, "block_type": "olmoe"},
}

# Settings that our blocks do not have, with the one value under which they change nothing.
_UNSUPPORTED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "norm_topk_prob": False,
}

_NORMS_BEFORE = {"attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm"}
_NORMS_AFTER = {"attn_norm": "post_attention_layernorm", "ff_norm": "post_feedforward_layernorm"}


def llm_config_from_hf(hf: Mapping[str, Any]) -> LlmConfig:
    """The configuration of a published base language model.

    `vocab_size` and `embedding_size` are both the rows of the published table, so image special tokens come after
    every row that the file has.

    Args:
        hf: Parsed `config.json`.

    Raises:
        OLMoConfigurationError: an unknown `model_type`, a missing size, or a setting that these blocks do not have.
    """
    family = _family(hf)
    for key, allowed in _UNSUPPORTED.items():
        if hf.get(key, allowed) != allowed:
            raise OLMoConfigurationError(f"{hf[key]!r} is not supported in a base model, only {allowed!r}", key)
    values = dict(_FAMILIES[family])
    if hf.get("rms_norm_eps") is not None:
        values["norm_eps"] = hf["rms_norm_eps"]
    if family == "olmoe":
        values |= {"n_experts": _size(hf, "num_experts"), "experts_per_token": _size(hf, "num_experts_per_tok")}
    return LlmConfig.new(
        d_model=_size(hf, "hidden_size"),
        n_heads=_size(hf, "num_attention_heads"),
        n_kv_heads=hf.get("num_key_value_heads"),
        head_dim=hf.get("head_dim"),
        n_layers=_size(hf, "num_hidden_layers"),
        mlp_hidden_size=_size(hf, "intermediate_size"),
        vocab_size=_size(hf, "vocab_size"),
        embedding_size=_size(hf, "vocab_size"),
        max_sequence_length=_size(hf, "max_position_embeddings"),
        clip_qkv=hf.get("clip_qkv"),
        rope=_rope(hf),
        weight_tying=bool(hf.get("tie_word_embeddings", False)),
        **values,
    )


def llm_weight_rules(hf: Mapping[str, Any], config: LlmConfig) -> list[WeightRule]:
    """Which tensors of the published file make which parameter of `Llm(config)`.

    The rows of the added vocabulary have no rule: no base model knows them, they keep their initialisation.

    Args:
        hf: Parsed `config.json`.
        config: What `llm_config_from_hf` made of it; `weight_tying` may have been changed since.
    """
    family = _family(hf)
    rules = [WeightRule("wte.embedding", ("model.embed_tokens.weight",))]
    if config.norm_has_weight:
        rules.append(WeightRule("ln_f.weight", ("model.norm.weight",)))
    if not config.weight_tying:
        is_tied_there = bool(hf.get("tie_word_embeddings", False))
        head = "model.embed_tokens.weight" if is_tied_there else "lm_head.weight"
        rules.append(WeightRule("lm_head.weight", (head,)))
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        rules += _attention_rules(ours, theirs, config)
        rules += _routed_rules(ours, theirs, config) if family == "olmoe" else _dense_rules(ours, theirs)
    return rules


def _attention_rules(ours: str, theirs: str, config: LlmConfig) -> list[WeightRule]:
    rules = [WeightRule(f"{ours}.attention.attn_out.weight", (f"{theirs}.self_attn.o_proj.weight",))]
    for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
        sources = tuple(f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv")
        rules.append(WeightRule(f"{ours}.attention.att_proj.{kind}", sources, stack_rows))
    if config.qk_norm:
        rules += [
            WeightRule(f"{ours}.attention.{name}.weight", (f"{theirs}.self_attn.{name}.weight",))
            for name in ("q_norm", "k_norm")
        ]
    if config.norm_has_weight:
        norms = _NORMS_AFTER if config.norm_after else _NORMS_BEFORE
        rules += [WeightRule(f"{ours}.{our}.weight", (f"{theirs}.{their}.weight",)) for our, their in norms.items()]
    return rules


def _dense_rules(ours: str, theirs: str) -> list[WeightRule]:
    up_gate = (f"{theirs}.mlp.up_proj.weight", f"{theirs}.mlp.gate_proj.weight")
    return [
        WeightRule(f"{ours}.mlp.ff_proj.weight", up_gate, stack_rows),
        WeightRule(f"{ours}.mlp.ff_out.weight", (f"{theirs}.mlp.down_proj.weight",)),
    ]


def _routed_rules(ours: str, theirs: str, config: LlmConfig) -> list[WeightRule]:
    experts = [f"{theirs}.mlp.experts.{expert}" for expert in range(config.n_experts)]
    ups = tuple(f"{expert}.up_proj.weight" for expert in experts)
    gates = tuple(f"{expert}.gate_proj.weight" for expert in experts)
    downs = tuple(f"{expert}.down_proj.weight" for expert in experts)
    return [
        WeightRule(f"{ours}.mlp.router.weight", (f"{theirs}.mlp.gate.weight",)),
        WeightRule(f"{ours}.mlp.experts_in", ups + gates, join_experts_in),
        WeightRule(f"{ours}.mlp.experts_out", downs, join_experts_out),
    ]


def stack_rows(*parts: Tensor) -> Tensor:
    """Several `[rows, ...]` under one another."""
    return torch.cat(parts, 0)


def join_experts_in(*ups_and_gates: Tensor) -> Tensor:
    """All up, then all gate matrices `[F, D]` of E experts, as `[E, 2F, D]` with up first."""
    n_experts = len(ups_and_gates) // 2
    up, gate = torch.stack(ups_and_gates[:n_experts]), torch.stack(ups_and_gates[n_experts:])  # [E, F, D] each
    return torch.cat((up, gate), 1)


def join_experts_out(*downs: Tensor) -> Tensor:
    """The down matrices of E experts as `[E, D, F]`."""
    return torch.stack(downs)


def _family(hf: Mapping[str, Any]) -> str:
    family = hf.get("model_type")
    if family not in _FAMILIES:
        raise OLMoConfigurationError(
            f"{family!r} is not a base language model known here; choose one of {', '.join(_FAMILIES)}", "model_type"
        )
    return str(family)


def _size(hf: Mapping[str, Any], key: str) -> int:
    value = hf.get(key)
    if value is None:
        raise OLMoConfigurationError("is missing from the base model's config.json; it holds no such size", key)
    return int(value)


def _rope(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, from the one dict of newer files or the two keys of older ones."""
    found = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    kind = found.get("rope_type", found.get("type", "default"))
    rope: dict[str, Any] = {"theta": found.get("rope_theta", hf.get("rope_theta", 10_000.0)), "scaling": kind}
    if kind == "llama3":
        rope |= {name: found[name] for name in ("factor", "low_freq_factor", "high_freq_factor") if name in found}
        rope["original_max_position"] = found.get(
            "original_max_position_embeddings", _size(hf, "max_position_embeddings")
        )
    elif kind != "default":
        reason = f"rotary scaling {kind!r} is not supported, only default and llama3"
        raise OLMoConfigurationError(reason, "rope_scaling")
    return rope

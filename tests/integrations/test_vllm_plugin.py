"""The plugin of vLLM without vLLM: names of weights by a table, registration, the entry point."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from olmo.models.export.hf_folder import ARCHITECTURES as VARIANTS
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.hf import further_names, hf_export_rules
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig

PLUGIN = Path(__file__).resolve().parents[2] / "integrations" / "vllm_olmo"

LLM = {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 48, "vocab_size": 260, "qkv_bias": True,
       "additional_vocab_size": 128}  # fmt: skip
VISION = {"vit": {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 48}, "vit_layers": [-1, -1]}
ROUTED = {"block_type": "olmoe", "n_experts": 2, "experts_per_token": 1, "qkv_bias": False, "qk_norm": True}

OUTSIDE_BLOCKS = {
    "model.transformer.wte.embedding", "model.transformer.wte.new_embedding",  # joined by vLLM before it renames
    "model.norm.weight", "lm_head.weight",
}  # fmt: skip
DENSE_BLOCK = {
    "self_attn.qkv_proj.weight", "self_attn.qkv_proj.bias", "self_attn.o_proj.weight", "mlp.gate_up_proj.weight",
    "mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight",
}  # fmt: skip
ROUTED_BLOCK = {
    "self_attn.qkv_proj.weight", "self_attn.o_proj.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight",
    "input_layernorm.weight", "post_attention_layernorm.weight", "mlp.gate.weight",
    *(f"mlp.experts.{e}.{part}_proj.weight" for e in range(2) for part in ("gate", "up", "down")),
}  # fmt: skip
VISION_NAMES = {
    "pad_embed", "image_projector.gate_proj.weight", "image_projector.up_proj.weight",
    "image_projector.down_proj.weight", "image_vit.class_embedding", "image_vit.positional_embedding",
    "image_vit.patch_embedding.weight", "image_vit.pre_ln.weight", "image_vit.pre_ln.bias",
    *(f"image_pooling_2d.{w}.{kind}" for w in ("wq", "wk", "wv", "wo") for kind in ("weight", "bias")),
    *(
        f"image_vit.transformer.resblocks.0.{part}.{kind}"
        for part in (*(f"attention.{w}" for w in ("wq", "wk", "wv", "wo")), "feed_forward.w1", "feed_forward.w2",
                     "attention_norm", "ffn_norm")
        for kind in ("weight", "bias")
    ),
}  # fmt: skip
"""Parameters of vLLM's vision backbone; those of the projector before it joins two of them."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PLUGIN))
    return importlib.import_module("vllm_olmo")


def exported_names(config: MolmoConfig, cls: type[Molmo] | type[HeMolmo] = Molmo) -> list[str]:
    """Names of what `molmo export` writes."""
    with torch.device("meta"):
        further = further_names(cls(config).state_dict())
    return [rule.target for rule in hf_export_rules(config)] + [theirs for _, theirs in further]


def vllm_names(block: set[str]) -> set[str]:
    return (
        OUTSIDE_BLOCKS
        | {f"model.layers.0.{name}" for name in block}
        | {f"vision_backbone.{name}" for name in VISION_NAMES}
    )


@pytest.mark.parametrize(("llm", "block"), [({}, DENSE_BLOCK), (ROUTED, ROUTED_BLOCK)], ids=["dense", "routed"])
def test_names_become_those_of_the_table(llm, block, plugin):
    vllm_name = importlib.import_module("vllm_olmo.weight_names").vllm_name
    config = MolmoConfig.from_dict({"llm": {**LLM, **llm}, "vision_backbone": VISION})
    names = [vllm_name(name) for name in exported_names(config)]
    # The tables keep the released names here: vLLM's own code takes them out before it renames anything.
    assert len(names) == len(set(names)) and set(names) == vllm_names(block)


def test_what_only_a_variant_has_is_left_out(plugin):
    vllm_name = importlib.import_module("vllm_olmo.weight_names").vllm_name
    config = HeMolmo.config_class.from_dict({"model_name": "he_molmo", "llm": LLM, "vision_backbone": VISION})
    exported = exported_names(config, HeMolmo)
    further = [name for name in exported if name.startswith("model.token_selector.")]
    assert further and all(vllm_name(name) is None for name in further)
    assert {vllm_name(name) for name in exported} - {None} == vllm_names(DENSE_BLOCK)
    assert vllm_name("model.embed_tokens.weight") == "model.embed_tokens.weight"  # the joined table stays


def test_every_architecture_that_is_exported_is_registered_once_asked(plugin, monkeypatch):
    registered: dict[str, str] = {}

    class Registry:
        register_model = staticmethod(registered.__setitem__)

    fake = ModuleType("vllm")
    fake.ModelRegistry = Registry  # type: ignore[attr-defined]
    fake.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    plugin.register()
    plugin.register()
    assert set(registered) == {"MolmoForCausalLM", "OLMoForCausalLM", *VARIANTS.values()}
    module, name = set(registered.values()).pop().split(":")
    assert len(set(registered.values())) == 1
    assert f"class {name}(" in (PLUGIN / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def test_without_vllm_nothing_happens(plugin, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would raise
    assert plugin.register() is None
    assert not any(name == "vllm_olmo.model" for name in sys.modules)


def test_the_entry_point_leads_to_register(plugin):
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["olmo"].split(":")
    assert getattr(importlib.import_module(module), name) is plugin.register

from __future__ import annotations

import json
import warnings

import pytest

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from, hf_preprocessor_config_from
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_presets import LLM_PRESETS

MODELS = pytest.mark.parametrize("name", ["molmo_d", "molmo_o", "molmo_e"])

RELEASED_7B_D = {
    "architectures": ["MolmoForCausalLM"], "attention_layer_norm": False, "clip_qkv": None, "embedding_size": 152064,
    "auto_map": {"AutoConfig": "config_molmo.MolmoConfig", "AutoModelForCausalLM": "modeling_molmo.MolmoForCausalLM"},
    "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 37888, "layer_norm_eps": 1e-06,
    "layer_norm_type": "rms", "max_position_embeddings": 4096, "model_type": "molmo", "norm_after": False,
    "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "qkv_bias": True,
    "rope_theta": 1000000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.43.3",
    "use_cache": True, "use_position_ids": True, "vocab_size": 152064, "weight_tying": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(golden_dir, name, file="config.json"):
    return json.loads((golden_dir / name / file).read_text())


def build(config, preprocessor=None):
    return MolmoConfig.from_dict(config_values_from_hf(config, preprocessor))


def test_released_7b_d():
    config = build(RELEASED_7B_D)
    preset = {k: v for k, v in LLM_PRESETS["qwen2_7b"].items() if k != "tokenizer"}
    expected = MolmoConfig.new(
        llm={**preset, "tokenizer": {"identifier": "tokenizer.json"}, "clip_qkv": None},
        vision_backbone={"vit_layers": [-2, -9]},
        mm_preprocessor={"legacy_image_mask": True},
    )
    assert config == expected
    assert config.vision_backbone.vit.spec.n_layers == 23
    fields_of_code = ("auto_map", "transformers_version")
    assert hf_config_from(config) == {k: v for k, v in RELEASED_7B_D.items() if k not in fields_of_code}


def test_absent_fields_have_the_released_defaults():
    config = build({"model_type": "molmo"})
    llm = config.llm
    assert (llm.vocab_size, llm.embedding_size, llm.d_model, llm.mlp_hidden_size) == (50304, 50304, 4096, 5504)
    assert (llm.n_layers, llm.n_heads, llm.n_kv_heads, llm.max_sequence_length) == (32, 32, None, 2048)
    assert (llm.norm_eps, llm.rope.theta, llm.qkv_bias, llm.norm_after) == (1e-5, 1e4, False, False)
    assert (llm.qk_norm, llm.weight_tying) == (False, False)
    assert build({"hidden_size": 4096, "tie_word_embeddings": True}).llm.weight_tying is False


@MODELS
def test_golden_configurations_survive_the_way_there_and_back(golden_dir, name):
    config = build(read(golden_dir, name), read(golden_dir, name, "preprocessor_config.json"))
    assert config.mm_preprocessor.legacy_image_mask
    assert config.vision_backbone.vit.n_layers == 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sizes of the encoder are no field of the dense schema
        written = hf_config_from(config)
    assert build(written, hf_preprocessor_config_from(config)) == config
    original = read(golden_dir, name)
    compared = set(original) & set(written) - {"vision_backbone", "mlp_hidden_size", "max_position_embeddings"}
    assert {k: written[k] for k in compared} == {k: original[k] for k in compared}


def test_routed_models_have_half_the_stated_width(golden_dir):
    llm = build(read(golden_dir, "molmo_e")).llm
    assert (llm.block_type.value, llm.n_experts, llm.experts_per_token, llm.mlp_hidden_size) == ("olmoe", 8, 3, 32)
    assert llm.max_sequence_length == 4096


def test_preprocessor_file_sets_the_crops(golden_dir):
    preprocessor = read(golden_dir, "molmo_d", "preprocessor_config.json") | {"max_crops": 36}
    assert build(read(golden_dir, "molmo_d"), preprocessor).mm_preprocessor.max_crops == 36


@pytest.mark.parametrize(
    "change",
    [{"image_patch_size": 16}, {"base_image_input_size": [224, 224]}, {"image_mean": [0.5, 0.5, 0.5]},
     {"do_normalize": False}, {"image_token_length_w": 9}, {"image_std": [1.0]}],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_pixels_of_another_kind_are_an_error(golden_dir, change):
    preprocessor = read(golden_dir, "molmo_d", "preprocessor_config.json") | change
    with pytest.raises(OLMoCheckpointError, match=next(iter(change))):
        build(read(golden_dir, "molmo_d"), preprocessor)


@pytest.mark.parametrize(
    "change",
    [{"alibi": True}, {"activation_type": "gelu"}, {"scale_logits": True}, {"normalize_input_embeds": True},
     {"attn_logit_softcapping": 50.0}, {"moe_shared_expert": True}, {"layer_norm_type": "default"},
     {"include_bias": True}, {"rope": False}, {"block_type": "llama"}, {"use_cls_feature": True},
     {"moe_dropless": False}, {"quantization_config": {"bits": 4}}, {"rope_scaling": {"type": "linear"}}],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
@pytest.mark.parametrize("name", ["molmo_d", "molmo_e"])
def test_other_mathematics_is_an_error(golden_dir, name, change):
    with pytest.raises(OLMoCheckpointError, match=next(iter(change))):
        build(read(golden_dir, name) | change)


@pytest.mark.parametrize(
    "change",
    [{"image_default_input_size": [336, 224]}, {"image_num_pos": 500}, {"image_head_dim": 16},
     {"image_num_key_value_heads": 2}, {"image_mlp_activations": "relu"}, {"image_model_type": "resnet"},
     {"resize_mode": "siglip"}],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_another_encoder_is_an_error(golden_dir, change):
    config = read(golden_dir, "molmo_e")
    config["vision_backbone"] |= change
    with pytest.raises(OLMoCheckpointError, match=next(iter(change))):
        build(config)


def test_unknown_fields_are_named_in_a_warning():
    with pytest.warns(UserWarning, match="'brand_new_trick'"):
        build({**RELEASED_7B_D, "brand_new_trick": True})


def test_another_model_is_an_error():
    with pytest.raises(OLMoCheckpointError, match="'llama' model"):
        build({"model_type": "llama"})


@pytest.mark.parametrize(
    "change",
    [{"mlp_hidden_size": "wide"}, {"vision_backbone": 7}, {"vision_backbone": {"image_default_input_size": 336}}],
    ids=str,
)
def test_values_of_a_wrong_kind_are_named(golden_dir, change):
    with pytest.raises(OLMoCheckpointError, match=next(iter(change))):
        build(read(golden_dir, "molmo_e") | change)


def test_missing_sizes_are_named():
    with pytest.raises(OLMoCheckpointError, match="'n_layers'"):
        build({"d_model": 64, "n_heads": 4, "vocab_size": 100})


VARIED = {
    "trained here": {"mm_preprocessor": {"max_crops": 6}},
    "siglip": {"vision_backbone": {"image_model_type": "siglip", "image_pooling_2d": "attention"}},
    "metaclip, linear": {"vision_backbone": {"image_model_type": "metaclip", "image_projector": "linear"}},
    "no pictures": {"vision_backbone": None},
    "looks ahead": {"bi_directional_attn": "within_image", "data_formatter": {"system_prompt": "style"}},
    "routed": {"llm": {"block_type": "olmoe", "n_experts": 4, "head_dim": 32}},
    "tied, other table": {"llm": {"weight_tying": True, "additional_vocab_size": 8}},
    "clipped": {"llm": {"clip_qkv": 8.0, "n_kv_heads": 4, "residual_dropout": 0.1}},
}


@pytest.mark.parametrize("change", VARIED.values(), ids=VARIED)
def test_what_the_released_schema_lacks_is_written_beside_it_with_a_warning(change):
    """The configuration that comes back runs the same; what it names differently are values left to their defaults."""
    llm = {"tokenizer": {"identifier": "tokenizer.json"}, "mlp_hidden_size": 64} | change.get("llm", {})
    config = MolmoConfig.new(**{**change, "llm": llm})
    with pytest.warns(UserWarning, match="other programs"):
        written = json.loads(json.dumps(hf_config_from(config)))
    back = build(written, hf_preprocessor_config_from(config))
    assert back.mm_preprocessor == config.mm_preprocessor
    assert back.data_formatter == config.data_formatter
    assert back.bi_directional_attn == config.bi_directional_attn
    named = {"n_kv_heads": None, "embedding_size": None, "n_experts": 1, "experts_per_token": 1}
    assert back.llm.replace(**named) == config.llm.replace(**named)
    assert back.llm.resolved_n_kv_heads == config.llm.resolved_n_kv_heads
    if config.vision_backbone is None:
        assert back.vision_backbone is None
    else:
        assert back.vision_backbone.vit.spec == config.vision_backbone.vit.spec
        assert back.vision_backbone.layers == config.vision_backbone.layers
        changed = {"vit": config.vision_backbone.vit, "vit_layers": None}
        assert back.vision_backbone.replace(**changed) == config.vision_backbone.replace(**changed)


@pytest.mark.parametrize(
    "change",
    [{"llm": {"norm_type": "layer"}}, {"llm": {"norm_has_weight": False}}, {"llm": {"rope": {"scaling": "llama3"}}},
     {"llm": {"head_dim": 32}}, {"llm": {}, "vision_backbone": {"projector_hidden_size": 7}},
     {"llm": {}, "vision_backbone": {"image_projector": "2mlp"}}],
    ids=str,
)  # fmt: skip
def test_what_the_released_layout_has_no_word_for_is_an_error(change):
    with pytest.raises(OLMoCheckpointError, match="save_checkpoint"):
        hf_config_from(MolmoConfig.new(**change))

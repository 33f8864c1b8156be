from __future__ import annotations

import json
import warnings

import pytest
import torch

from olmo.checkpoint.hf import load_by_rules, save_by_rules, target_shape
from olmo.checkpoint.tensor_source import DictSource, SafetensorsSource
from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.hf import hf_export_rules, hf_weight_rules
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_presets import LLM_PRESETS

MODELS = pytest.mark.parametrize("name", ["molmo_d", "molmo_o", "molmo_e"])


def golden_config(folder):
    return MolmoConfig.from_dict(config_values_from_hf(json.loads((folder / "config.json").read_text())))


def empty_model(config):
    with torch.device("meta"):
        return Molmo(config)


@MODELS
def test_golden_weights_load_and_come_back_bit_equal(golden_dir, tmp_path, name):
    config = golden_config(golden_dir / name)
    source = SafetensorsSource(golden_dir / name)
    model = empty_model(config)
    assert not load_by_rules(model, source, hf_weight_rules(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config_json = hf_config_from(config)
    save_by_rules(model, hf_export_rules(config), tmp_path / "c", config_json, max_shard_bytes=200_000)
    written = SafetensorsSource(tmp_path / "c")
    assert sorted(written.names()) == sorted(source.names())
    for tensor in source.names():
        assert torch.equal(written.get(tensor), source.get(tensor)), tensor


def test_halves_go_where_the_released_code_has_them(golden_dir):
    config = golden_config(golden_dir / "molmo_e")
    source = SafetensorsSource(golden_dir / "molmo_e")
    model = empty_model(config)
    load_by_rules(model, source, hf_weight_rules(config))
    mlp = model.llm.blocks[1].mlp
    theirs = "model.transformer.blocks.1.mlp.experts.5"
    assert torch.equal(mlp.experts_in[5, :32], source.get(f"{theirs}.up_proj.weight"))
    assert torch.equal(mlp.experts_in[5, 32:], source.get(f"{theirs}.gate_proj.weight"))
    assert torch.equal(mlp.experts_out[5], source.get(f"{theirs}.down_proj.weight"))
    attention = model.vision_backbone.image_vit.blocks[3].attention
    theirs = "model.vision_backbone.image_vit.transformer.resblocks.3.attention"
    for i, part in enumerate(("wq", "wk", "wv")):
        assert torch.equal(attention.wqkv.weight.chunk(3)[i], source.get(f"{theirs}.{part}.weight"))
        assert torch.equal(attention.wqkv.bias.chunk(3)[i], source.get(f"{theirs}.{part}.bias"))


@pytest.mark.parametrize(
    ("preset", "n_parameters", "head"),
    [
        ("qwen2_7b", 8_021_025_280, "model.transformer.ff_out.weight"),  # the total_size of the released index, over 4
        ("olmo_7b_1024", 7_665_032_192, "model.transformer.ff_out.weight"),
        ("qwen2_72b", 73_308_285_952, "model.transformer.ff_out.weight"),
        ("olmoe_1b_7b", 7_221_875_712, "lm_head.weight"),
    ],
)
def test_released_models_have_the_released_number_of_weights(preset, n_parameters, head):
    config = MolmoConfig.new(llm=LLM_PRESETS[preset])
    model = empty_model(config)
    ours = DictSource(model.state_dict())
    exported = {rule.target: target_shape(rule, ours) for rule in hf_export_rules(config)}
    assert sum(torch.Size(shape).numel() for shape in exported.values()) == n_parameters
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert exported[head] == (config.llm.embedding_size, config.llm.d_model)
    source = DictSource({name: torch.empty(shape, device="meta") for name, shape in exported.items()})
    rebuilt = {rule.target: target_shape(rule, source) for rule in hf_weight_rules(config)}
    assert rebuilt == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


VARIED = {
    "siglip": {"vision_backbone": {"vit": {"image_model_type": "siglip", "d_model": 32, "n_heads": 2, "n_layers": 9,
               "mlp_hidden_size": 48}, "image_padding_embed": None}},
    "dino": {"vision_backbone": {"vit": {"image_model_type": "dino", "d_model": 32, "n_heads": 2, "n_layers": 9,
             "mlp_hidden_size": 48}, "image_projector": "linear", "image_pooling_2d": "mean"}},
    "no pictures": {"vision_backbone": None},
    "tied, one table": {"vision_backbone": None, "llm": {"weight_tying": True, "additional_vocab_size": 0}},
}  # fmt: skip


@pytest.mark.parametrize("change", VARIED.values(), ids=VARIED)
def test_models_that_were_never_released_fit_the_layout_too(tmp_path, change):
    llm = {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 60}
    config = MolmoConfig.new(**{**change, "llm": llm | change.get("llm", {})})
    model, loaded = Molmo(config, seed=1), Molmo(config, seed=2)
    save_by_rules(model, hf_export_rules(config), tmp_path / "c", {})
    load_by_rules(loaded, SafetensorsSource(tmp_path / "c"), hf_weight_rules(config))
    for (name, first), second in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def test_a_checkpoint_of_another_size_lists_what_differs(golden_dir):
    config = golden_config(golden_dir / "molmo_d")
    config = config.replace(llm=config.llm.replace(mlp_hidden_size=40, qk_norm=True))
    with pytest.raises(OLMoCheckpointError) as caught:
        load_by_rules(empty_model(config), SafetensorsSource(golden_dir / "molmo_d"), hf_weight_rules(config))
    message = str(caught.value)
    assert "llm.blocks.2.mlp.ff_out.weight is [64, 48] in the checkpoint and [64, 40] in the model" in message
    assert "llm.blocks.0.attention.q_norm.weight (made of model.transformer.blocks.0.q_norm.weight)" in message

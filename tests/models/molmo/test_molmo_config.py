"""`MolmoConfig`: documented fields and calls, files with their tokenizer, the builders."""

from __future__ import annotations

import dataclasses
import inspect
import shutil

import numpy as np
import pytest
import torch
import yaml
from tiny import VALUES, build, example, picture, values_with, write_config, write_tokenizer

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.molmo.molmo import MolmoConfig
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig


def error(match: str):
    return pytest.raises(OLMoConfigurationError, match=match)


# -- fields and construction ---------------------------------------------------------------------------------------


def test_p01_fields_are_the_documented_ones():
    fields = {f.name: f for f in dataclasses.fields(MolmoConfig)}
    documented = ["llm", "vision_backbone", "data_formatter", "mm_preprocessor", "bi_directional_attn"]
    assert list(fields)[:5] == documented and all(f.default is None for f in list(fields.values())[5:])
    config = MolmoConfig(llm=LlmConfig())
    assert config.bi_directional_attn is None
    assert isinstance(config.vision_backbone, MolmoVisionBackboneConfig)
    assert isinstance(config.data_formatter, DataFormatter)
    assert isinstance(config.mm_preprocessor, MolmoPreprocessorConfig)
    assert MolmoConfig(llm=LlmConfig(), vision_backbone=None).image_spec is None


def test_p21_new_takes_objects_and_dicts():
    documented = MolmoConfig.new(
        llm=LlmConfig(d_model=4096, n_heads=32, n_layers=32),
        vision_backbone=MolmoVisionBackboneConfig(image_model_type="openai"),
    )
    assert documented == MolmoConfig.new(
        llm={"d_model": 4096, "n_heads": 32, "n_layers": 32}, vision_backbone={"image_model_type": "openai"}
    )
    assert documented.vision_backbone.image_model_type == "openai"
    assert MolmoConfig.new(**documented.asdict()) == documented


def test_routed_blocks_are_named_as_documented_and_as_in_the_original_code():
    documented = LlmConfig(block_type="olmoe", n_experts=8, experts_per_token=2)
    assert documented.block_type is BlockType.olmoe
    assert LlmConfig(block_type="moe", moe_num_experts=16, moe_top_k=4) == LlmConfig(
        block_type="olmoe", n_experts=16, experts_per_token=4
    )
    config = MolmoConfig.new(llm={"block_type": "moe", "moe_num_experts": 16})
    assert config.asdict()["llm"]["n_experts"] == 16 and config.asdict()["llm"]["block_type"] == "olmoe"
    assert MolmoConfig.from_dict(config.asdict(), ["llm.moe_top_k=4"]).llm.experts_per_token == 4
    with error("llm.blok_type: unknown key .* did you mean 'block_type'"):
        MolmoConfig.new(llm={"blok_type": "olmoe"})
    with error("blok_type"):
        LlmConfig(blok_type="olmoe")


BAD = {
    "heads": ({"llm": {"d_model": 30, "n_heads": 4}}, "^llm.n_heads: 4 heads do not divide d_model 30"),
    "key": ({"llm": {}, "vison_backbone": {}}, "^vison_backbone: unknown key .* 'vision_backbone'"),
    "deep key": ({"llm": {"rope": {"thta": 1}}}, "^llm.rope.thta: unknown key 'thta' in RopeConfig; .* 'theta'"),
    "encoder": ({"llm": {}, "vision_backbone": {"image_model_type": "vgg"}}, "'vgg' is not one of 'openai'"),
    "mode": ({"llm": {}, "bi_directional_attn": "within_resolution"}, "^bi_directional_attn: 'within_resolution'"),
    "margins": ({"llm": {}, "mm_preprocessor": {"overlap_margins": [12, 12]}}, "^mm_preprocessor.overlap_margins"),
    "second table": ({"llm": {"additional_vocab_size": 2}}, "^llm.additional_vocab_size: must be at least 4"),
    "model": ({"llm": {}, "model_name": "molmoo"}, r"^model_name: 'molmoo' is not one of .*'molmo'"),
    "model type": ({"llm": {}, "model_name": ["molmo"]}, "^model_name"),
    "nothing": ({}, "^llm: is required"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "match"), BAD.values(), ids=BAD)
def test_p20_wrong_values_name_their_dotted_path(values, match):
    with error(match):
        MolmoConfig.from_dict(values)
    with error(match):
        MolmoConfig.new(**values)


def test_p22_the_documented_overrides(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"llm": {"n_layers": 2}, "vision_backbone": {"image_model_type": "openai"}}))
    config = MolmoConfig.load(path, overrides=["llm.n_layers=16", "vision_backbone.image_model_type=siglip"])
    assert config.llm.n_layers == 16
    assert config.vision_backbone.vit.image_model_type == "siglip"
    spec = config.vision_backbone.vit.spec
    assert (spec.image_size, spec.d_model, spec.mean) == (378, 1152, (0.5, 0.5, 0.5))
    nested = MolmoConfig.load(path, overrides=["llm.n_layers=16", "vision_backbone.vit.image_model_type=siglip"])
    assert nested == config


def test_p22_what_is_set_explicitly_survives_another_encoder():
    values = {"llm": {}, "vision_backbone": {"vit": {"image_size": 168, "n_layers": 12}}}
    vit = MolmoConfig.from_dict(values, ["vision_backbone.image_model_type=dino"]).vision_backbone.vit
    assert (vit.spec.image_size, vit.spec.n_layers, vit.spec.has_layer_scale) == (168, 12, True)


def test_p22_overrides_of_lists_null_and_what_was_null(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"llm": {}, "vision_backbone": {"vit_layers": [-2, -9]}}))

    def loaded(*overrides: str) -> MolmoConfig:
        return MolmoConfig.load(path, overrides=overrides)

    assert loaded("vision_backbone.vit_layers.0=-3").vision_backbone.vit_layers == [-3, -9]
    assert loaded("vision_backbone.vit_layers=[-1]").vision_backbone.layers == (-1,)
    assert loaded("vision_backbone.vit_layers=null").vision_backbone.layers == (-2, -9)
    assert loaded("vision_backbone=null").vision_backbone is None
    assert loaded("vision_backbone=null", "vision_backbone.image_model_type=dino").vision_backbone.vit.spec.grid == 24
    assert loaded("bi_directional_attn=within_image").bi_directional_attn == "within_image"
    with error("^llm.n_layer: unknown key 'n_layer' in LlmConfig; did you mean 'n_layers'"):
        loaded("llm.n_layer=3")


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"vision_backbone": None}, {"llm__block_type": "olmoe", "llm__n_experts": 4},
                                    {"bi_directional_attn": "image_tokens", "mm_preprocessor__crop_mode": "resize"}],
                         ids=["plain", "text", "routed", "other"])  # fmt: skip
@pytest.mark.parametrize("target", ["config.yaml", "folder", "c.json"])
def test_p20_what_is_saved_loads_equal(tmp_path, change, target):
    config = MolmoConfig.load(write_config(tmp_path / "a", values_with(**change)))
    config.save(tmp_path / "b" / target)
    loaded = MolmoConfig.load(tmp_path / "b" / target)
    assert loaded == config and type(loaded) is MolmoConfig
    assert loaded.build_tokenizer().encode(" cat") == config.build_tokenizer().encode(" cat")


def test_p20_a_moved_folder_works_alone(tmp_path):
    write_config(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    config = MolmoConfig.load(tmp_path / "there" / "config.yaml")
    assert config.source_dir == tmp_path / "there"
    assert config.build_tokenizer().decode(config.build_tokenizer().encode("a cat")) == "a cat"
    assert config.replace(bi_directional_attn="image_tokens").source_dir == config.source_dir


@pytest.mark.parametrize("named", ["absolute", "sub/my.json", "sub", "hub"])
def test_a_saved_configuration_names_its_tokenizer_relative_to_itself(tmp_path, named):
    write_tokenizer(tmp_path / "a" / "sub")
    (tmp_path / "a" / "sub" / "my.json").write_bytes((tmp_path / "a" / "sub" / "tokenizer.json").read_bytes())
    identifier = {"absolute": str(tmp_path / "a" / "sub" / "tokenizer.json"), "hub": "owner/name"}.get(named, named)
    path = tmp_path / "a" / "config.yaml"
    path.write_text(yaml.safe_dump(values_with(llm__tokenizer={"identifier": identifier})))
    if named == "hub":
        write_tokenizer(tmp_path / "a")
    MolmoConfig.load(path).save(tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    loaded = MolmoConfig.load(tmp_path / "b")
    assert loaded.llm.tokenizer.identifier == ("owner/name" if named == "hub" else "tokenizer.json")
    assert loaded.build_tokenizer().encode("cat")
    assert str(tmp_path) not in (tmp_path / "b" / "config.yaml").read_text()


def test_a_configuration_without_its_tokenizer_at_hand_can_be_saved(tmp_path):
    config = MolmoConfig.new(**values_with(llm__tokenizer={"identifier": "owner/not-here"}))
    config.save(tmp_path / "c.yaml")
    assert MolmoConfig.load(tmp_path / "c.yaml") == config
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    with error("hf download owner/not-here"):
        config.build_tokenizer()


def test_p20_the_configuration_of_a_released_folder_says_from_pretrained(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "molmo", "hidden_size": 4}')
    for path in (tmp_path, tmp_path / "config.json"):
        with error("from_pretrained"):
            MolmoConfig.load(path)


# -- builders ------------------------------------------------------------------------------------------------------


def test_p23_builders_have_the_documented_arguments():
    names = {
        "build_tokenizer": ["self"],
        "build_preprocessor": ["self", "for_inference", "is_training", "include_image", "max_seq_len"],
        "build_collator": ["self", "sequence_length", "pad_mode", "include_metadata"],
    }
    for method, wanted in names.items():
        parameters = inspect.signature(getattr(MolmoConfig, method)).parameters
        assert list(parameters) == wanted
    defaults = inspect.signature(MolmoConfig.build_preprocessor).parameters
    assert [defaults[n].default for n in names["build_preprocessor"][2:]] == [True, False, None]


def test_p23_what_the_builders_make_feeds_the_model(config):
    preprocess = config.build_preprocessor(for_inference=False, is_training=True)
    rng = np.random.default_rng(0)
    examples = [preprocess(example("what?", picture(60, 100), answer="a cat"), rng=rng),
                preprocess(example("where", answer="here"), rng=rng)]  # fmt: skip
    model = build(config)
    losses = []
    for pad_mode in (None, "to_max"):
        batch = config.build_collator(128, pad_mode, include_metadata=True)(examples)
        assert batch["input_ids"].shape[1] == (128 if pad_mode else max(len(e["input_ids"]) for e in examples))
        losses.append(model(**batch).loss)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)


def test_p23_inference_wins_over_training_and_pictures_are_kept_on_request(config):
    shown = picture()
    made = config.build_preprocessor(for_inference=True, is_training=True, include_image=True)(
        {"image": shown, "question": "what?", "answers": ["not seen"]}
    )
    assert "labels" not in made
    assert np.array_equal(made["metadata"]["images"][0], shown)
    assert "not seen" not in config.build_tokenizer().decode(made["input_ids"])


def test_p23_text_is_cut_pictures_are_not(config):
    long = example("what?", picture(), answer="so much to say " * 20)
    made = config.build_preprocessor(for_inference=False, is_training=False, max_seq_len=60)(long)
    assert len(made["input_ids"]) == 60
    batch = config.build_collator(45, None)([made])
    assert batch["input_ids"].shape == (1, 45)
    assert int(batch["image_input_idx"].max()) < 45
    with pytest.raises(OLMoInputError, match="leaves no room"):
        config.build_preprocessor(for_inference=False, max_seq_len=10)(long)
    with pytest.raises(OLMoInputError, match="pictures are never cut"):
        config.build_collator(10, None)([made])
    with error("max_seq_len: must be at least 1"):
        config.build_preprocessor(for_inference=True, max_seq_len=0)


def test_picture_tokens_follow_the_vocabulary_of_tokenizer_and_configuration(config):
    tokenizer, ids = config.build_tokenizer(), config.image_token_ids
    assert (ids.start, ids.end, ids.patch, ids.col) == (
        tokenizer.im_start_id, tokenizer.im_end_id, tokenizer.im_patch_id, tokenizer.im_col_id,
    )  # fmt: skip
    assert VALUES["llm"]["vocab_size"] == ids.start

"""The models of the family: sizes, contexts, and the same data as YAML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.models.auto import model_class
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.presets import MODEL_PRESETS, preset
from olmo.preprocessing.image_tokens import count_image_tokens
from olmo.preprocessing.multicrop import make_crops, tiling_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Of the four released ones: the sum over the released weight files. Molmo-1B is this project's own.
N_PARAMS = {
    "molmo-1b": 1_508_838_400,
    "molmo-7b-d": 8_021_025_280,
    "molmo-7b-o": 7_665_032_192,
    "molmo-72b": 73_308_285_952,
    "molmoe-1b": 7_221_875_712,
    "videoolmo-7b": 8_021_025_280,  # the parts of molmo-7b-d
    "hemolmo-7b": 8_021_025_280 + 9_189_928,  # and a scorer
}
NOMINAL = {
    "molmo-1b": (0.0, 1.6e9), "molmo-7b-d": (7e9, 8.5e9), "molmo-7b-o": (7e9, 8.5e9), "molmo-72b": (70e9, 76e9),
    "molmoe-1b": (6.5e9, 7.5e9), "videoolmo-7b": (7e9, 8.5e9), "hemolmo-7b": (7e9, 8.5e9),
}  # fmt: skip
CONTEXT = {name: 2048 if name == "molmo-1b" else 4096 for name in N_PARAMS}
NAMES = pytest.mark.parametrize("name", N_PARAMS)


@NAMES
def test_p07_parameter_counts_and_contexts_are_the_published_ones(name):
    config = preset(name)
    with torch.device("meta"):
        model = model_class(config.model_name)(config)
    assert model.num_params() == N_PARAMS[name]
    assert NOMINAL[name][0] <= model.num_params() <= NOMINAL[name][1]
    assert config.llm.max_sequence_length == CONTEXT[name]
    assert config.vision_backbone.vit.spec.image_size == 336


def test_p07_molmoe_uses_a_sixth_of_its_parameters_for_a_token():
    with torch.device("meta"):
        model = Molmo(preset("molmoe-1b"))
    assert model.llm.num_params(include_inactive=False) == pytest.approx(1.28e9, rel=0.05)


@NAMES
def test_the_yaml_is_the_same_as_the_data(name):
    assert MolmoConfig.load(CONFIGS / f"{name}.yaml") == preset(name)


def test_there_is_a_yaml_for_each_and_names_ignore_case():
    assert set(MODEL_PRESETS) == set(N_PARAMS)
    assert preset("Molmo-7B-D") == preset("molmo-7b-d")
    with pytest.raises(OLMoConfigurationError, match="no model is called 'molmo-3b'; there are molmo-1b"):
        preset("molmo-3b")


@pytest.mark.parametrize("name", ["molmo-7b-d", "molmo-7b-o", "molmoe-1b"])
def test_a_preset_is_what_the_released_files_describe(name):
    """Back and forth through the released config.json, only the tokenizer's place differs."""
    config = preset(name)
    again = MolmoConfig.from_dict(config_values_from_hf(json.loads(json.dumps(hf_config_from(config)))))
    assert again.vision_backbone.vit.spec == config.vision_backbone.vit.spec
    for part in ("n_kv_heads", "embedding_size", "mlp_hidden_size"):  # what is left out in one is written in the other
        assert getattr(again.llm, f"resolved_{part}") == getattr(config.llm, f"resolved_{part}")
    written = {"tokenizer": config.llm.tokenizer, "n_kv_heads": config.llm.n_kv_heads}
    if name != "molmoe-1b":  # the dense layout has no word for experts, which a dense model ignores
        written |= {"n_experts": config.llm.n_experts, "experts_per_token": config.llm.experts_per_token}
    vision = again.vision_backbone.replace(vit=config.vision_backbone.vit)
    assert again.replace(llm=again.llm.replace(**written), vision_backbone=vision) == config


@pytest.mark.parametrize("name", ["molmo-7b-d", "molmo-72b"])
def test_p07_the_72b_model_takes_1024_by_1024_pixels_at_full_resolution(name):
    config = preset(name)
    rows, columns = tiling_of(1024, 1024, config.image_spec, config.mm_preprocessor)
    canvas = 224 * rows + 112  # side of what the picture is resized to
    assert (canvas >= 1024) is (name == "molmo-72b")
    assert count_image_tokens((rows, columns), config.image_spec, config.mm_preprocessor) < 4000
    if name == "molmo-72b":
        crops = make_crops(np.zeros((1024, 1024, 3), np.uint8), config.image_spec, config.mm_preprocessor)
        assert len(crops.images) == 1 + rows * columns


@NAMES
def test_the_widest_tilings_fit_the_context(name):
    config = preset(name)
    most = config.mm_preprocessor.max_crops
    for tiling in ((1, most), (most, 1)):  # with room for a question and an answer
        assert count_image_tokens(tiling, config.image_spec, config.mm_preprocessor) <= CONTEXT[name] - 128

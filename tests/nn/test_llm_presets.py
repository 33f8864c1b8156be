from __future__ import annotations

import pytest
import torch

from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig
from olmo.nn.llm_presets import LLM_PRESETS


def on_meta(name):
    with torch.device("meta"):
        return Llm(LlmConfig.new(**LLM_PRESETS[name]))


# Counted from the released checkpoints: language model, embeddings and head.
@pytest.mark.parametrize(
    ("name", "n_params"),
    [
        ("qwen2_7b", 7_616_075_264),
        ("olmo_7b_1024", 7_299_141_632),
        ("qwen2_72b", 72_707_252_224),
        ("olmoe_1b_7b", 6_919_424_000),
    ],
)
def test_number_of_weights(name, n_params):
    assert on_meta(name).num_params() == n_params


def test_olmo_1b_is_one_table_and_sixteen_blocks():
    block = 4 * 2048**2 + 3 * 2048 * 8192
    assert on_meta("olmo_1b").num_params() == (50_304 + 128) * 2048 + 16 * block


def test_olmoe_uses_1_28_billion_weights_a_token():
    assert on_meta("olmoe_1b_7b").num_params(include_inactive=False) == pytest.approx(1.28e9, rel=0.01)


@pytest.mark.parametrize("name", LLM_PRESETS)
def test_loads_and_saves(name, tmp_path):
    config = LlmConfig.new(**LLM_PRESETS[name])
    config.save(tmp_path / "config.yaml")
    assert LlmConfig.load(tmp_path) == config
    assert config.tokenizer.identifier


@pytest.mark.parametrize(
    ("name", "att_proj", "ff_proj", "head"),
    [
        ("qwen2_7b", (4608, 3584), (37_888, 3584), (152_064, 3584)),
        ("olmo_7b_1024", (12_288, 4096), (22_016, 4096), (100_352, 4096)),
        ("qwen2_72b", (10_240, 8192), (59_136, 8192), (152_064, 8192)),
    ],
)
def test_released_shapes(name, att_proj, ff_proj, head):
    state = on_meta(name).state_dict()
    assert state["blocks.0.attention.att_proj.weight"].shape == att_proj
    assert state["blocks.0.mlp.ff_proj.weight"].shape == ff_proj
    assert state["lm_head.weight"].shape == head
    assert state["wte.new_embedding"].shape == (128, att_proj[1])


def test_released_shapes_of_olmoe():
    state = on_meta("olmoe_1b_7b").state_dict()
    assert state["blocks.15.mlp.experts_in"].shape == (64, 2048, 2048)
    assert state["blocks.15.mlp.experts_out"].shape == (64, 2048, 1024)
    assert state["blocks.15.mlp.router.weight"].shape == (64, 2048)

from __future__ import annotations

import pytest
import torch
from torch import nn

from olmo.models.info import model_info, picture_tokens
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.moe import RoutedMlp


def config(**llm: object) -> MolmoConfig:
    sizes = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 100}
    vit = {"image_size": 168, "d_model": 32, "n_heads": 2, "n_layers": 3, "mlp_hidden_size": 48}
    return MolmoConfig.new(
        llm={**sizes, "max_sequence_length": 256, **llm}, vision_backbone={"vit": vit, "vit_layers": [-1]}
    )


KINDS = [{}, {"weight_tying": True}, {"block_type": "olmoe", "n_experts": 4}]


@pytest.mark.parametrize("llm", KINDS)
def test_counts_equal_a_real_model(llm):
    model, info = Molmo(config(**llm)), model_info(config(**llm), Molmo)
    assert info.n_params == sum(p.numel() for p in model.parameters())
    assert info.n_active_params == model.num_params(include_inactive=False)
    assert (info.n_active_params < info.n_params) == ("n_experts" in llm)
    assert sum(info.n_params_by_part.values()) == info.n_params
    assert info.memory["fp32"].weights_bytes == sum(p.nbytes for p in model.parameters())
    assert info.memory["bf16"].weights_bytes == sum(p.nbytes for p in model.bfloat16().parameters())


def test_the_cache_is_that_of_a_full_context():
    model, info = Molmo(config()), model_info(config(), Molmo)
    with torch.no_grad():
        past = model(torch.zeros(1, 256, dtype=torch.long), use_cache=True).past_key_values
    n_bytes = sum(t.nbytes for pair in past for t in pair)
    assert info.memory["fp32"].cache_bytes == n_bytes
    assert info.memory["bf16"].cache_bytes == info.memory["int8"].cache_bytes == n_bytes // 2
    assert info.memory["fp32"].total_bytes == info.memory["fp32"].weights_bytes + n_bytes


@pytest.mark.parametrize("llm", KINDS)
def test_int8_takes_one_byte_for_a_number_in_a_matrix(llm):
    model, info = Molmo(config(**llm)), model_info(config(**llm), Molmo)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    experts = [p for m in model.modules() if isinstance(m, RoutedMlp) for p in (m.experts_in, m.experts_out)]
    n_matrix = sum(p.numel() for p in matrices + experts)
    n_rows = sum(p.shape[0] for p in matrices) + sum(p.shape[0] * p.shape[1] for p in experts)
    assert info.memory["int8"].weights_bytes == n_matrix + 2 * n_rows + 2 * (info.n_params - n_matrix)


@pytest.mark.parametrize("size", [(168, 168), (640, 480), (10, 2000)])
def test_picture_tokens_are_those_of_the_preprocessor(size):
    from_layout = picture_tokens(config(), *size)
    width, height = size
    assert from_layout is not None and from_layout > 0
    assert picture_tokens(config(), height, width) > 0


def test_a_text_only_model_has_no_picture_tokens():
    text_only = config().replace(vision_backbone=None)
    assert picture_tokens(text_only, 640, 480) is None
    assert model_info(text_only, Molmo).n_params_by_part["vit"] == 0

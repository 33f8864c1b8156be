from __future__ import annotations

import pytest
import torch

from olmo.nn.llm_config import LlmConfig
from olmo.nn.norm import LayerNorm, RMSNorm, build_norm


def oracle_rms(x, weight, eps):
    wide = x.double()
    normed = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt()
    return normed.float().to(x.dtype) * weight


def oracle_layer(x, weight, eps):
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return normed.float().to(x.dtype) * weight


@pytest.mark.parametrize(("kind", "oracle"), [(RMSNorm, oracle_rms), (LayerNorm, oracle_layer)])
@pytest.mark.parametrize("has_weight", [True, False])
def test_matches_the_formula(kind, oracle, has_weight):
    torch.manual_seed(0)
    norm = kind(24, 1e-3, has_weight)
    weight = torch.ones(24)
    if has_weight:
        weight = norm.weight.data.uniform_(0.5, 2.0)
    x = torch.randn(3, 5, 24) * 4 + 1
    torch.testing.assert_close(norm(x), oracle(x, weight, 1e-3), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_bfloat16_is_normalised_in_float32_and_weighted_after_the_cast(kind):
    torch.manual_seed(0)
    norm = kind(64, 1e-6)
    norm.weight.data.uniform_(0.5, 2.0)
    norm = norm.bfloat16()
    x = (torch.randn(7, 64) * 30).bfloat16()
    wide = kind(64, 1e-6, has_weight=False)(x.float())
    assert torch.equal(norm(x), wide.bfloat16() * norm.weight)
    assert norm(x).dtype == torch.bfloat16


def test_large_float16_values_do_not_overflow():
    x = torch.full((2, 16), 60_000.0, dtype=torch.float16)
    torch.testing.assert_close(RMSNorm(16, 1e-6).half()(x), torch.ones_like(x))


def test_without_weight_there_is_no_parameter():
    assert not list(RMSNorm(8, 1e-6, has_weight=False).parameters())


def test_build_norm_follows_the_configuration():
    assert type(build_norm(LlmConfig(), 8)) is RMSNorm
    norm = build_norm(LlmConfig(norm_type="layer", norm_has_weight=False, norm_eps=1e-3), 8)
    assert type(norm) is LayerNorm and norm.weight is None and norm.eps == 1e-3

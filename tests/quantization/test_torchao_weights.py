"""Matrices by torchao, where it is installed; it needs a GPU for the rest of its schemes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.config import Scheme
from olmo.quantization.torchao_weights import is_torchao, require_torchao, stored_bytes, take_by_torchao


@pytest.mark.parametrize("scheme", Scheme)
def test_a_missing_torchao_is_named(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(OLMoConfigurationError, match=rf"{scheme} on a GPU needs torchao .*molmo\[quant\]"):
        require_torchao(scheme)


@pytest.mark.parametrize("scheme", [Scheme.int8, Scheme.int8_dynamic, Scheme.fp8])
@torch.no_grad()
def test_products_are_near_those_of_the_wide_matrix(scheme):
    pytest.importorskip("torchao", reason="torchao is not installed")
    torch.manual_seed(0)
    layer, x = nn.Linear(256, 128, bias=False, dtype=torch.bfloat16), torch.randn(4, 256, dtype=torch.bfloat16)
    weight = layer.weight.detach().clone()
    expected = layer(x).float()
    take_by_torchao(layer, weight, scheme)
    assert is_torchao(layer.weight)
    assert stored_bytes(layer.weight) <= 0.55 * weight.nbytes
    assert (layer(x).float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_4_bits_on_a_gpu():
    pytest.importorskip("torchao", reason="torchao is not installed")
    layer = nn.Linear(256, 128, bias=False, dtype=torch.bfloat16, device="cuda")
    x, weight = torch.randn(4, 256, dtype=torch.bfloat16, device="cuda"), layer.weight.detach().clone()
    expected = layer(x).float()
    take_by_torchao(layer, weight, Scheme.int4)
    assert (layer(x).float() - expected).norm() < 0.2 * expected.norm()
    assert stored_bytes(layer.weight) <= 0.35 * weight.nbytes


def test_a_plain_tensor_takes_its_bytes():
    assert stored_bytes(torch.zeros(3, 5, dtype=torch.int8)) == 15
    assert not is_torchao(nn.Parameter(torch.zeros(1)))

"""The 4-bit layer, where torchao is installed: within a tenth of the matrix, gradients of the widened matrix."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.nf4_linear import Nf4Linear


def test_a_missing_torchao_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(OLMoConfigurationError, match=r"needs torchao .* or use an int8 base"):
        Nf4Linear(nn.Linear(128, 128))


def test_a_matrix_that_cannot_be_cut_into_blocks_is_refused():
    pytest.importorskip("torchao")
    with pytest.raises(OLMoConfigurationError, match=r"\[32, 100\].*multiple of 16384"):
        Nf4Linear(nn.Linear(100, 32))


def test_product_and_gradients_are_those_of_the_widened_matrix():
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    source = nn.Linear(256, 128)
    layer, x = Nf4Linear(source), torch.randn(3, 256, requires_grad=True)
    assert (layer.widened() - source.weight).norm() < 0.15 * source.weight.norm()  # 0.092 for normal numbers
    expected = F.linear(x, layer.widened(), source.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    g = torch.randn(3, 128)
    ours, theirs = torch.autograd.grad(layer(x), x, g), torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert list(layer.state_dict()) == ["bias"]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16

"""The 8-bit layer computes what its widened matrix computes, in a quarter of the memory.

Tolerance 1e-5: float32 rounding of sums.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from olmo.nn.int8_linear import Int8Linear


@pytest.fixture
def source() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 32)


def test_each_number_is_within_half_a_step_of_its_row(source):
    layer = Int8Linear(source)
    steps = source.weight.abs().amax(1, keepdim=True) / 127
    assert ((layer.widened() - source.weight).abs() <= steps * 0.5001).all()


def test_product_and_gradients_are_those_of_the_widened_matrix(source):
    layer, x = Int8Linear(source), torch.randn(3, 5, 48, requires_grad=True)
    expected = F.linear(x, layer.widened(), source.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    g = torch.randn(3, 5, 32)
    (ours,) = torch.autograd.grad(layer(x), x, g)
    (theirs,) = torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_memory_kept_for_the_backward_pass_is_the_8_bit_matrix():
    layer, kept = Int8Linear(nn.Linear(256, 256, bias=False)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(2, 256, requires_grad=True))
    assert sum(t.nbytes for t in kept) == 256 * 256 + 4 * 256
    assert sum(t.nbytes for t in layer.state_dict().values()) == 256 * 256 + 4 * 256


def test_a_row_of_zeros_and_a_missing_bias(source):
    source.weight.data[3] = 0
    source.bias = None
    assert (Int8Linear(source)(torch.randn(2, 48))[:, 3] == 0).all()


def test_nothing_of_it_learns_and_the_source_is_unchanged(source):
    before = source.weight.detach().clone()
    layer = Int8Linear(source)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert not layer.bias.requires_grad
    assert torch.equal(source.weight, before)


def test_it_computes_in_the_type_of_autocast(source):
    layer, x = Int8Linear(source), torch.randn(2, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    assert layer(x.double()).dtype is torch.float64

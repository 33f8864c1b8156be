"""The 4-bit layer computes what its widened matrix computes; the order of the kernel is undone exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.int4 import Int4Linear


def source(n_in: int = 64, n_out: int = 48, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias)


# Whole blocks of the kernel, parts of one, and both: a block has 64 rows or 32, by processor.
@pytest.mark.parametrize(("n_in", "n_out"), [(64, 64), (32, 16), (96, 48), (64, 112), (160, 192)])
@torch.no_grad()
def test_the_product_is_that_of_the_widened_matrix_and_packing_can_be_undone(n_in, n_out):
    wide = source(n_in, n_out)
    layer, x = Int4Linear.of(wide), torch.randn(2, 9, n_in)
    before, expected = layer.weight.clone(), F.linear(x, layer.widened(), wide.bias)
    # bfloat16 rounding of inputs, scales and results; worst seen 0.006 of the largest
    torch.testing.assert_close(layer(x), expected, atol=0.012 * expected.abs().max().item(), rtol=0)
    assert not hasattr(layer, "weight"), "a packed layer keeps no second matrix"
    assert torch.equal(layer.state_dict()["weight"], before)


@torch.no_grad()
def test_rounding_is_within_a_step_and_memory_is_a_sixth():
    wide = source(256, 128, bias=False)
    layer = Int4Linear.of(wide)
    assert (layer.widened() - wide.weight).norm() < 0.1 * wide.weight.norm()  # 0.078 for these uniform numbers
    layer.pack()
    assert sum(t.nbytes for t in layer.state_dict().values()) <= wide.weight.nbytes / 6


@torch.no_grad()
def test_copies_and_loads_work_on_a_packed_layer():
    layer, x = Int4Linear.of(source()), torch.randn(3, 64)
    expected, other = layer(x), Int4Linear(64, 48, has_bias=True)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)


def test_a_group_of_equal_numbers():
    wide = source(32, 16, bias=False)
    wide.weight.data[:] = torch.arange(16.0)[:, None]
    assert torch.equal(Int4Linear.of(wide).widened(), wide.weight.detach())


@pytest.mark.parametrize("shape", [(40, 48), (64, 40)])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(OLMoConfigurationError, match="multiple of 16 rows and of 32 columns; keep this layer"):
        Int4Linear.of(source(*shape))

"""The 8-bit layers compute what their widened matrix computes, a row at a time, in a quarter of the memory.

Tolerances are shares of the largest result: bfloat16 rounding of inputs and results (worst seen 0.004) for the first,
127 steps an input (0.01; 63 without VNNI) for the second.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from olmo.quantization.int8 import Int8DynamicLinear, Int8Linear
from olmo.quantization.narrow_linear import NarrowLinear

KINDS = pytest.mark.parametrize(("kind", "share"), [(Int8Linear, 0.008), (Int8DynamicLinear, 0.03)])


def source(n_in: int = 64, n_out: int = 48, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias)


def product(layer: NarrowLinear, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(x)


@KINDS
@pytest.mark.parametrize(("n_in", "n_out"), [(64, 48), (40, 33), (5, 7), (96, 1)])
def test_the_product_is_that_of_the_widened_matrix(kind, share, n_in, n_out):
    """Widths that are no whole vectors too: the kernel of torch would read past their rows."""
    wide = source(n_in, n_out)
    layer, x = kind.of(wide), torch.randn(2, 9, n_in)
    expected = F.linear(x, layer.widened(), wide.bias.detach())
    torch.testing.assert_close(product(layer, x), expected, atol=share * expected.abs().max().item(), rtol=0)
    assert product(layer, x[:, :0]).shape == (2, 0, n_out)


@KINDS
def test_each_number_is_within_half_a_step_of_its_row(kind, share):
    wide = source()
    layer = kind.of(wide)
    off = (layer.widened() - wide.weight).abs()
    # A step is rounded to bfloat16: where that made it smaller, the largest numbers of a row are cut by up to 0.4 %.
    assert (off <= layer.scale[:, None] * 0.501 + wide.weight.abs().amax(1, keepdim=True) / 256).all()


@KINDS
def test_rows_do_not_depend_on_one_another(kind, share):
    layer, x = kind.of(source()), torch.randn(17, 64)
    together = product(layer, x)
    for n in (1, 2, 5):
        assert torch.equal(product(layer, x[:n]), together[:n])
    assert torch.equal(product(layer, x[3]), together[3])


@KINDS
def test_a_huge_row_leaves_the_others_exact(kind, share):
    layer, x = kind.of(source(bias=False)), torch.randn(2, 64)
    alone = product(layer, x[:1])
    x[1] *= 1e6
    assert torch.equal(product(layer, x)[:1], alone)
    x[0] = 0
    assert (product(layer, x)[0] == 0).all()


@KINDS
def test_it_takes_a_quarter_of_the_memory_and_packing_changes_nothing(kind, share):
    wide = source(256, 128, bias=False)
    layer = kind.of(wide)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert sum(t.nbytes for t in before.values()) <= 0.3 * wide.weight.nbytes
    layer.pack()
    assert not hasattr(layer, "weight"), "a packed layer keeps no second matrix"
    after = layer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in ("weight", "scale"))


@KINDS
def test_copies_moves_and_loads_work_on_a_packed_layer(kind, share):
    layer, other, x = kind.of(source()), kind.of(source()), torch.randn(3, 64)
    expected = product(layer, x)
    assert torch.equal(product(copy.deepcopy(layer), x), expected)
    product(other.to(torch.bfloat16), x.bfloat16())
    other.float().load_state_dict(layer.state_dict())
    assert torch.equal(product(other, x), expected)


@KINDS
def test_it_computes_in_the_type_of_its_input_and_of_autocast(kind, share):
    layer, x = kind.of(source()), torch.randn(2, 64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert product(layer, x.to(dtype)).dtype is dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert product(layer, x).dtype is torch.bfloat16


@KINDS
def test_where_a_gradient_is_wanted_it_is_that_of_the_widened_matrix(kind, share):
    layer, x, g = kind.of(source()), torch.randn(3, 64, requires_grad=True), torch.randn(3, 48)
    product(layer, x)  # packed
    (ours,) = torch.autograd.grad(layer(x), x, g)
    torch.testing.assert_close(ours, g @ layer.widened(), atol=1e-5, rtol=0)

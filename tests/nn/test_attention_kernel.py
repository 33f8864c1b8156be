"""Plain products and the fused kernel are one attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from olmo.nn import attention_kernel
from olmo.nn.attention_kernel import attend

SHAPES = {"full": (4, 4), "grouped": (4, 2), "one_key_head": (4, 1)}


def inputs(heads, kv_heads, length=13, dtype=torch.bfloat16):
    torch.manual_seed(0)
    shapes = ((2, heads, length, 16), (2, kv_heads, length, 16), (2, kv_heads, length, 16))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def fused(q, k, v, bias, is_causal):
    q, k, v = (t.detach().float().requires_grad_() for t in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    mask = None if bias is None else bias.float()
    return (q, k, v), F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "causal", "bias"])
def test_products_give_the_fused_result_and_gradients(shape, mask, monkeypatch):
    q, k, v = inputs(*SHAPES[shape])
    bias = None
    if mask == "bias":
        hidden = torch.rand(2, 1, 13, 13) < 0.3
        hidden.diagonal(dim1=-2, dim2=-1).fill_(False)
        bias = torch.zeros(2, 1, 13, 13, dtype=torch.bfloat16).masked_fill(hidden, float("-inf"))
    calls = []
    products = attention_kernel._products
    monkeypatch.setattr(attention_kernel, "_products", lambda *a: calls.append(a) or products(*a))
    out = attend(q, k, v, bias, is_causal=mask == "causal")
    assert len(calls) == 1
    wanted_inputs, wanted = fused(q, k, v, bias, mask == "causal")
    torch.testing.assert_close(out.float(), wanted, atol=0.03, rtol=0.03)
    weight = torch.randn_like(wanted)
    (out.float() * weight).sum().backward()
    (wanted * weight).sum().backward()
    for mine, other in zip((q, k, v), wanted_inputs, strict=True):
        error = (mine.grad.float() - other.grad).norm() / other.grad.norm()
        assert error < 0.02


@pytest.mark.parametrize("why", ["float32", "no_grad", "one_query", "too_long"])
def test_the_fused_kernel_stays_where_it_is_no_slower(why, monkeypatch):
    monkeypatch.setattr(attention_kernel, "_products", lambda *_: pytest.fail("plain products were taken"))
    q, k, v = inputs(4, 2, dtype=torch.float32 if why == "float32" else torch.bfloat16)
    if why == "too_long":
        monkeypatch.setattr(attention_kernel, "MOST_SCORES", 100)
    q = q[:, :, -1:] if why == "one_query" else q
    with torch.set_grad_enabled(why != "no_grad"):
        assert attend(q, k, v).shape == q.shape


def test_under_autocast_the_dtype_that_counts_is_that_of_the_products():
    q, k, v = inputs(4, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out.float(), fused(q, k, v, None, False)[1], atol=0.03, rtol=0.03)


def test_dropout_drops_weights_in_products():
    q, k, v = inputs(2, 2)
    torch.manual_seed(0)
    first = attend(q, k, v, dropout=0.5)
    assert not torch.equal(first, attend(q, k, v, dropout=0.5))
    assert torch.equal(attend(q, k, v), attend(q, k, v))

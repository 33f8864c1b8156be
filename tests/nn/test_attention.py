from __future__ import annotations

import pytest
import torch

from olmo.nn.attention import Attention, AttentionContext
from olmo.nn.attention_mask import additive_mask, build_attention_mask, causal_mask
from olmo.nn.llm_config import LlmConfig
from olmo.nn.rope import RotaryEmbedding

VARIANTS = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "one_key_head": {"n_kv_heads": 1, "qkv_bias": True},
    "qk_norm": {"qk_norm": True, "n_kv_heads": 2},
    "clipped": {"clip_qkv": 0.3},
    "wide_heads": {"head_dim": 12},
}


def build(seed=0, **values):
    torch.manual_seed(seed)
    attention = Attention(LlmConfig(d_model=32, n_heads=4, **values))
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.3)
    return attention.eval()


def context_for(attention, length, mask=None, output_attentions=False):
    config_rope = RotaryEmbedding(LlmConfig().rope, attention.head_dim)
    cos, sin = config_rope.tables(torch.arange(length)[None])
    if mask is None and output_attentions:
        mask = causal_mask(length, 0)[None]
    bias = None if mask is None else additive_mask(mask, torch.float32)
    return AttentionContext(cos, sin, bias, is_causal=mask is None, output_attentions=output_attentions)


def oracle(attention, x):
    """Head by head and query by query."""
    length, dim, heads = x.shape[1], attention.head_dim, attention.n_heads
    qkv = attention.att_proj(x)[0]
    if attention.clip_qkv is not None:
        qkv = qkv.clamp(-attention.clip_qkv, attention.clip_qkv)
    q, k, v = qkv.split((attention.q_width, attention.kv_width, attention.kv_width), -1)
    if attention.q_norm is not None:
        q, k = attention.q_norm(q), attention.k_norm(k)
    rope = RotaryEmbedding(LlmConfig().rope, dim)
    positions = torch.arange(length)[None]
    q, k = rope(q.view(1, length, -1, dim).transpose(1, 2), k.view(1, length, -1, dim).transpose(1, 2), positions)
    out = torch.zeros(length, heads, dim)
    for head in range(heads):
        group = head // (heads // attention.n_kv_heads)
        for i in range(length):
            scores = k[0, group, : i + 1] @ q[0, head, i] / dim**0.5
            out[i, head] = torch.softmax(scores, 0) @ v[: i + 1, group * dim : (group + 1) * dim]
    return attention.attn_out(out.view(1, length, -1))


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_against_the_definition(variant):
    attention = build(**VARIANTS[variant])
    x = torch.randn(1, 7, 32)
    expected = oracle(attention, x)
    fused, weights = attention(x, context_for(attention, 7))
    assert weights is None
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)
    eager, weights = attention(x, context_for(attention, 7, output_attentions=True))
    torch.testing.assert_close(eager, expected, atol=1e-5, rtol=1e-5)
    assert weights.shape == (1, 4, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 7))
    assert weights.triu(1).abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_equals_eager_with_a_mask(variant):
    attention = build(**VARIANTS[variant])
    x = torch.randn(2, 6, 32)
    valid = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    groups = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 0, 2, 2, 0]])
    mask = build_attention_mask(6, key_is_valid=valid, group_ids=groups)
    fused, _ = attention(x, context_for(attention, 6, mask))
    eager, weights = attention(x, context_for(attention, 6, mask, output_attentions=True))
    torch.testing.assert_close(fused, eager, atol=1e-5, rtol=1e-5)
    assert (weights[~mask.expand_as(weights)] == 0).all()


def test_gradients_of_fused_equal_eager():
    attention = build(n_kv_heads=2, qk_norm=True)
    x = torch.randn(1, 5, 32)
    grads = []
    for output_attentions in (False, True):
        out, _ = attention(x, context_for(attention, 5, output_attentions=output_attentions))
        grads.append(torch.autograd.grad(out.square().sum(), list(attention.parameters())))
    for fused, eager in zip(*grads, strict=True):
        torch.testing.assert_close(fused, eager, atol=1e-4, rtol=1e-4)


def test_eager_softmax_is_float32_in_bfloat16():
    attention = build().bfloat16()
    x = torch.randn(1, 5, 32).bfloat16() * 4
    context = context_for(attention, 5, output_attentions=True)
    context.bias = context.bias.bfloat16()
    _, weights = attention(x, context)
    q, k, _ = attention._project(x, context)
    scores = (q @ k.transpose(-1, -2)) * attention.head_dim**-0.5 + context.bias
    assert torch.equal(weights, torch.softmax(scores.float(), -1).bfloat16())


def test_clipping_bounds_the_projections():
    attention = build(clip_qkv=0.1)
    _, _, v = attention._project(torch.randn(1, 4, 32) * 10, context_for(attention, 4))
    assert v.abs().max() <= 0.1


def test_dropout_only_when_training():
    attention = build(attention_dropout=0.5)
    x = torch.randn(1, 6, 32)
    context = context_for(attention, 6)
    assert torch.equal(attention(x, context)[0], attention(x, context)[0])
    attention.train()
    assert not torch.equal(attention(x, context)[0], attention(x, context)[0])


def test_parameter_names():
    names = {name: tuple(p.shape) for name, p in build(n_kv_heads=2, qk_norm=True, qkv_bias=True).named_parameters()}
    assert names == {
        "att_proj.weight": (64, 32),
        "att_proj.bias": (64,),
        "attn_out.weight": (32, 32),
        "q_norm.weight": (32,),
        "k_norm.weight": (16,),
    }

"""A cache of one size gives what the growing one gives, and never moves."""

from __future__ import annotations

import pytest
import torch

from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig
from olmo.nn.static_cache import OneSlot, StaticKVCache

N_SLOTS = 24


def pairs(n, batch=2, n_layers=2):
    return [(torch.randn(batch, 2, n, 4), torch.randn(batch, 2, n, 4)) for _ in range(n_layers)]


def addresses(cache):
    return [tensor.data_ptr() for tensor in (*cache.keys, *cache.values, cache.place)]


def test_holds_what_it_is_filled_with_and_nothing_else():
    cache = StaticKVCache(2, 2, 2, 4, 8)
    for buffer in (*cache.keys, *cache.values):
        buffer.fill_(torch.nan)  # as memory may come, or be left by an answer that went wrong
    past = pairs(3)
    cache.fill(past)
    assert cache.length == 3 and cache.place.tolist() == [3]
    for found, wanted in zip(cache.as_tuple(), past, strict=True):
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert not any(buffer[:, :, 3:].any() for buffer in (*cache.keys, *cache.values))
    cache.fill(())
    assert cache.length == 0 and not any(buffer.any() for buffer in (*cache.keys, *cache.values))


def test_writes_reads_and_takes_back_as_the_growing_cache_does():
    static, growing = StaticKVCache(2, 2, 2, 4, 8), KVCache(2, 2, 2, 4, 8)
    where = addresses(static)
    for n, back in ((3, 0), (2, 1), (4, 0)):
        for layer, (k, v) in enumerate(pairs(n)):
            for found, wanted in zip(static.update(layer, k, v), growing.update(layer, k, v), strict=True):
                assert torch.equal(found, wanted)
        for cache in (static, growing):
            cache.advance(n)
            cache.take_back(back)
        assert static.length == growing.length == static.place.item()
    assert addresses(static) == where


def test_rows_are_reordered_in_place():
    static, growing = StaticKVCache(2, 3, 2, 4, 8), KVCache(2, 3, 2, 4, 8)
    past, rows, where = pairs(5, batch=3), torch.tensor([2, 0, 2]), addresses(static)
    static.fill(past)
    for layer, (k, v) in enumerate(past):
        growing.update(layer, k, v)
    growing.advance(5)
    for cache in (static, growing):
        cache.reorder(rows)
    for found, wanted in zip(static.as_tuple(), growing.as_tuple(), strict=True):
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert addresses(static) == where


@pytest.mark.parametrize(
    "act",
    [lambda c: c.reserve(9), lambda c: c.update(0, *pairs(9)[0]), lambda c: c.reorder(torch.tensor([0, 1, 1]))],
    ids=["reserve", "update", "reorder"],
)
def test_never_gets_another_size(act):
    with pytest.raises(AssertionError):
        act(StaticKVCache(2, 2, 2, 4, 8))


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "qk_norm": True, "norm_after": True}],
    ids=["all heads", "grouped heads", "norms"],
)
def test_one_token_passes_give_the_logits_of_the_growing_cache(settings):
    """Three rows, padded on either side."""
    torch.manual_seed(0)
    llm = Llm(LlmConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=50, mlp_hidden_size=48, init_std=0.2, **settings))
    llm.eval()
    length, n_steps = 9, 6
    valid = torch.ones(3, length, dtype=torch.bool)
    valid[1, :4], valid[2, 6:] = False, False
    ids = torch.randint(0, 50, (3, length + n_steps))
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    growing = llm.new_cache(3, length)
    static = StaticKVCache(3, 3, llm.config.resolved_n_kv_heads, 8, N_SLOTS)
    with torch.no_grad():
        mask = build_attention_mask(length, key_is_valid=valid)
        llm(llm.embed(ids[:, :length]), position_ids=positions, attention_mask=mask, cache=growing)
        static.fill(growing.as_tuple())
        where, next_position = addresses(static), positions.amax(1, keepdim=True) + 1
        for step in range(n_steps):
            past = length + step
            known = torch.nn.functional.pad(valid, (0, step + 1), value=True)
            embeds = llm.embed(ids[:, past : past + 1])
            mask = known[:, None, None]
            wanted = llm(embeds, position_ids=next_position, attention_mask=mask, cache=growing)
            whole = torch.nn.functional.pad(known, (0, N_SLOTS - past - 1))[:, None, None]
            slot = OneSlot(static.keys, static.values, static.place)
            found = llm(embeds, position_ids=next_position, attention_mask=whole, cache=slot)
            static.advance(1)
            torch.testing.assert_close(llm.logits(found.hidden), llm.logits(wanted.hidden), atol=1e-5, rtol=1e-5)
            next_position = next_position + 1
    assert addresses(static) == where and static.length == growing.length == length + n_steps
    for found, wanted in zip(static.as_tuple(), growing.as_tuple(), strict=True):
        torch.testing.assert_close(found[0], wanted[0], atol=1e-5, rtol=1e-5)

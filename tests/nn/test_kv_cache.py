from __future__ import annotations

import torch

from olmo.nn.kv_cache import KVCache


def tokens(n, batch=2):
    return torch.randn(batch, 2, n, 4), torch.randn(batch, 2, n, 4)


def written(cache, *lengths):
    """Write random tokens of these lengths to every layer; all keys and values that each layer should hold then."""
    expected = [([k.clone()], [v.clone()]) for k, v in cache.as_tuple()]
    for n in lengths:
        for layer in range(cache.n_layers):
            k, v = tokens(n, cache.batch_size)
            keys, values = cache.update(layer, k, v)
            expected[layer][0].append(k)
            expected[layer][1].append(v)
            assert torch.equal(keys, torch.cat(expected[layer][0], 2))
            assert torch.equal(values, torch.cat(expected[layer][1], 2))
        cache.advance(n)
    return [(torch.cat(k, 2), torch.cat(v, 2)) for k, v in expected]


def assert_holds(cache, expected):
    for (keys, values), (wanted_keys, wanted_values) in zip(cache.as_tuple(), expected, strict=True):
        assert torch.equal(keys, wanted_keys) and torch.equal(values, wanted_values)


def test_returns_everything_written_so_far():
    cache = KVCache(3, 2, 2, 4, 16)
    assert_holds(cache, written(cache, 5, 1, 2))
    assert cache.length == 8 and cache.max_length == 16


def test_returns_views_of_one_buffer():
    cache = KVCache(1, 2, 2, 4, 16)
    first, _ = cache.update(0, *tokens(3))
    cache.advance(3)
    second, _ = cache.update(0, *tokens(1))
    assert first.data_ptr() == second.data_ptr()


def test_grows_by_doubling_and_keeps_what_it_holds():
    cache = KVCache(2, 2, 2, 4, 3)
    expected = written(cache, 2, 1, 1)
    assert cache.max_length == 6
    assert_holds(cache, expected)
    expected = written(cache, 20)
    assert cache.max_length == 24
    assert_holds(cache, expected)


def test_grows_from_nothing():
    cache = KVCache(1, 2, 2, 4, 0)
    assert_holds(cache, written(cache, 1, 1, 1))


def test_reorder_repeats_and_drops_rows():
    cache = KVCache(2, 2, 2, 4, 10)
    expected = written(cache, 4)
    rows = torch.tensor([1, 1, 0])
    cache.reorder(rows)
    assert cache.batch_size == 3 and cache.max_length == 10
    assert_holds(cache, [(k[rows], v[rows]) for k, v in expected])
    cache.reorder(torch.tensor([2]))
    assert_holds(cache, [(k[[0]], v[[0]]) for k, v in expected])
    cache.update(0, *tokens(1, batch=1))


def test_rows_are_separate_after_reorder():
    cache = KVCache(1, 1, 2, 4, 10)
    written(cache, 2)
    cache.reorder(torch.tensor([0, 0]))
    k, v = tokens(1)
    keys, _ = cache.update(0, k, v)
    assert torch.equal(keys[:, :, 2:], k)


def test_tuple_round_trip_copies():
    cache = KVCache(2, 2, 2, 4, 8)
    expected = written(cache, 3)
    other = KVCache.from_tuple(cache.as_tuple(), extra_length=5)
    assert other.length == 3 and other.max_length == 8
    written(cache, 1)
    for buffer, _ in cache.as_tuple():
        buffer.zero_()
    assert_holds(other, expected)


def test_casts_to_the_dtype_of_the_buffer():
    cache = KVCache(1, 2, 2, 4, 8, dtype=torch.bfloat16)
    k, v = tokens(2)
    keys, values = cache.update(0, k, v)
    assert torch.equal(keys, k.bfloat16()) and torch.equal(values, v.bfloat16())

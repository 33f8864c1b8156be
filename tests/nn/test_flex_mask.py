"""Block masks hold the same rule as dense ones; forward only, because FlexAttention has no backward on CPU."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.flex_mask import attend_in_blocks, build_block_mask
from olmo.nn.segments import EXAMPLE_STRIDE

BATCH, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 200, 4, 2, 16  # more than one block of 128, and no multiple of it
PARTS = [("key_is_valid",), ("segment_ids",), ("group_ids",), ("free_rows", "free_keys")]

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


def random_rules(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> torch.Tensor:
        return torch.randint(0, high, (BATCH, LENGTH), generator=generator)

    examples = draw(3).sort(-1).values  # packed rows hold one example after the other
    return {
        "key_is_valid": draw(5) > 0,
        "segment_ids": examples * EXAMPLE_STRIDE + draw(3),
        "group_ids": draw(4),
        "free_rows": draw(3) == 0,
        "free_keys": draw(3) == 0,
    }


def heads(seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(BATCH, n, LENGTH, WIDTH, generator=generator) for n in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v.to(dtype)


@pytest.mark.parametrize("parts", [p for n in (1, 2, 4) for p in itertools.combinations(PARTS, n)])
@torch.no_grad()
def test_attention_in_blocks_is_attention_with_the_dense_mask(parts):
    """Tolerance 1e-5; worst seen: 4.8e-7."""
    rules = {name: value for name, value in random_rules(0).items() if name in {n for part in parts for n in part}}
    q, k, v = heads(1)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=build_attention_mask(LENGTH, **rules), enable_gqa=True)
    torch.testing.assert_close(attend_in_blocks(q, k, v, build_block_mask(LENGTH, **rules)), wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_too():
    rules = random_rules(2)
    q, k, v = heads(3)
    mask = build_block_mask(LENGTH, **rules)
    compiled = torch.compile(attend_in_blocks)(q, k, v, mask)
    torch.testing.assert_close(compiled, attend_in_blocks(q, k, v, mask), atol=1e-5, rtol=0)


@torch.no_grad()
def test_queries_and_keys_may_come_in_a_wider_type():
    q, k, v = heads(4, torch.bfloat16)
    mask = build_block_mask(LENGTH, segment_ids=random_rules(0)["segment_ids"])
    assert attend_in_blocks(q, k, v, mask).dtype == torch.bfloat16


def test_blocks_that_nobody_sees_are_skipped():
    segments = torch.arange(4).repeat_interleave(256)[None] * EXAMPLE_STRIDE + 1  # four examples of two blocks
    mask = build_block_mask(1024, segment_ids=segments)
    assert mask.sparsity() == pytest.approx(100 * (1 - 4 * 3 / 64))


def test_plain_causality_needs_no_mask():
    assert build_block_mask(5) is None

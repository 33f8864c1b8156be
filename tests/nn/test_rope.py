from __future__ import annotations

import math

import pytest
import torch

from olmo.nn.llm_config import RopeConfig
from olmo.nn.rope import RotaryEmbedding, rope_frequencies, rotate

LLAMA3 = RopeConfig(theta=500_000.0, scaling="llama3", factor=8.0, original_max_position=1024)


def rotate_pairs(x, positions, frequencies):
    """The definition: each pair of channels as a complex number, turned by its angle."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    angles = positions.double()[:, None, :, None] * frequencies.double()  # [B, 1, L, Dh/2]
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1).float()


@pytest.mark.parametrize("config", [RopeConfig(), LLAMA3], ids=["default", "llama3"])
def test_turns_pairs_by_their_angle(config):
    torch.manual_seed(0)
    rope = RotaryEmbedding(config, 8)
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    positions = torch.randint(0, 500, (2, 6))
    got_q, got_k = rope(q, k, positions)
    frequencies = rope_frequencies(config, 8)
    torch.testing.assert_close(got_q, rotate_pairs(q, positions, frequencies), atol=1e-4, rtol=0)
    torch.testing.assert_close(got_k, rotate_pairs(k, positions, frequencies), atol=1e-4, rtol=0)


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    rope = RotaryEmbedding(RopeConfig(), 16)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    scores = []
    for shift in (0, 10, 300):
        turned_q, _ = rope(q, q, torch.tensor([[7 + shift]]))
        turned_k, _ = rope(k, k, torch.tensor([[3 + shift]]))
        scores.append((turned_q * turned_k).sum())
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[2], scores[0], atol=1e-4, rtol=0)


def test_position_zero_changes_nothing():
    x = torch.randn(1, 2, 3, 8)
    turned, _ = RotaryEmbedding(RopeConfig(), 8)(x, x, torch.zeros(1, 3, dtype=torch.long))
    assert torch.equal(turned, x)


def test_default_frequencies():
    expected = [10_000.0 ** (-2 * j / 8) for j in range(4)]
    assert rope_frequencies(RopeConfig(), 8).tolist() == pytest.approx(expected, rel=1e-6)


def test_llama3_frequencies_bit_for_bit_by_band():
    plain = rope_frequencies(RopeConfig(theta=500_000.0), 64)
    stretched = rope_frequencies(LLAMA3, 64)
    wavelength = 2 * math.pi / plain
    short, long = wavelength < 1024 / 4, wavelength > 1024
    assert short.any() and long.any() and (~short & ~long).any(), "all three bands occur"
    assert torch.equal(stretched[short], plain[short])
    torch.testing.assert_close(stretched[long], plain[long] / 8, rtol=1e-6, atol=0)
    between = ~short & ~long
    assert ((stretched < plain) & (stretched > plain / 8))[between].all()


def test_bfloat16_heads_are_turned_in_float32():
    torch.manual_seed(0)
    rope = RotaryEmbedding(RopeConfig(), 8)
    x = torch.randn(1, 5, 2, 8).bfloat16()  # [B, L, heads, Dh]
    cos, sin = rope.tables(torch.arange(900, 905)[None])
    assert cos.dtype == sin.dtype == torch.float32
    turned = rotate(x, cos, sin)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), cos, sin).bfloat16())


def test_frequencies_are_real_when_built_on_the_meta_device():
    with torch.device("meta"):
        rope = RotaryEmbedding(RopeConfig(), 8)
    cos, _ = rope.tables(torch.arange(3)[None])
    assert torch.equal(cos, RotaryEmbedding(RopeConfig(), 8).tables(torch.arange(3)[None])[0])
    assert rope.tables(torch.arange(3, device="meta")[None])[0].is_meta
    assert not rope.tables(torch.arange(3)[None])[0].is_meta, "asking on meta spoils nothing"

"""Rotary position embedding in the half-split layout, with the frequency stretching of Llama 3.1.

Angles, sines and cosines are float32 whatever the model's dtype. The tables for a forward pass are made once, from its
position ids, and shared by all layers; nothing here depends on a longest length.
Source: RoFormer, Su et al. 2021, section 3.4; the stretching, Llama 3.1 as published in its configuration files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from olmo.nn.llm_config import RopeConfig, RopeScalingType


class RotaryEmbedding:
    """Turns pairs of query and key channels by an angle that grows with the position.

    This is no `nn.Module`: the frequencies follow from the configuration, so they must survive `to_empty` and must not
    be cast with the weights.

    Args:
        config: Base of the frequencies and their stretching.
        head_dim: Width of a head; channel `j` is paired with `j + head_dim / 2`.
    """

    def __init__(self, config: RopeConfig, head_dim: int) -> None:
        # On the CPU even when the model is built on the meta device; copies for other devices are made at first use.
        self._frequencies = {torch.device("cpu"): rope_frequencies(config, head_dim)}

    def frequencies(self, device: torch.device) -> Tensor:
        """Angle per position, float32 `[Dh / 2]` on `device`."""
        found = self._frequencies.get(device)
        if found is None:
            found = self._frequencies[device] = self._frequencies[torch.device("cpu")].to(device)
        return found

    def tables(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines for `rotate`.

        Args:
            position_ids: Integers `[B, L]`.

        Returns:
            Two float32 tensors `[B, L, 1, Dh]`. The sines of the first half are negated.
        """
        angles = position_ids.unsqueeze(-1) * self.frequencies(position_ids.device)  # [B, L, Dh/2]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1).unsqueeze(2), torch.cat((-sin, sin), -1).unsqueeze(2)

    def __call__(self, q: Tensor, k: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate queries `[B, H, L, Dh]` and keys `[B, Hkv, L, Dh]`; same shapes and dtypes."""
        cos, sin = (table.transpose(1, 2) for table in self.tables(position_ids))  # [B, 1, L, Dh]
        return rotate(q, cos, sin), rotate(k, cos, sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the tables to heads.

    Args:
        x: `[B, L, heads, Dh]`, or any layout that the tables broadcast to.
        cos: Float32 `[B, L, 1, Dh]`.
        sin: Float32 `[B, L, 1, Dh]`, first half negated: swapping the halves then needs no negation.

    Returns:
        Rotated heads with the shape and dtype of `x`; float32 inside.
    """
    half = x.shape[-1] // 2
    if x.dtype == torch.float32:
        return torch.addcmul(x * cos, x.roll(half, -1), sin)
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(half, -1), sin).to(x.dtype)


def rope_frequencies(config: RopeConfig, head_dim: int) -> Tensor:
    """Angle per position of each channel pair, float32 `[Dh / 2]` on the CPU."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / (config.theta**exponents)
    if config.scaling is RopeScalingType.llama3:
        return _stretch(frequencies, config)
    return frequencies


def _stretch(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Slow the low frequencies by `factor`, leave the high ones, blend linearly in between."""
    turns = config.original_max_position * frequencies / (2 * math.pi)  # full turns over the original context
    span = config.high_freq_factor - config.low_freq_factor
    kept = ((turns - config.low_freq_factor) / span).clamp(0.0, 1.0)
    return kept * frequencies + (1.0 - kept) * frequencies / config.factor

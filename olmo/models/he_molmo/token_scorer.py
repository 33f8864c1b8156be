"""Networks that score picture tokens, and the scores that need no training.

Source: the product's own design; a prior with a query term is close to DynamicViT (Rao et al. 2021) and SparseVLM
(Zhang et al. 2025). The golden ratio spreads numbers evenly for any count (Knuth, TAOCP 3, 6.4).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.models.he_molmo.he_molmo_config import QueryStart, ScorerType, TokenScorerConfig
from olmo.nn.image_vit import init_linear
from olmo.nn.linear import linear
from olmo.nn.norm import RMSNorm

_EPS = 1e-6
_PLACE_FREQUENCIES = 6
_CROP_FREQUENCIES = 8
_N_WAVES = 4 * _PLACE_FREQUENCIES + 2 * _CROP_FREQUENCIES
_GOLDEN = (math.sqrt(5) - 1) / 2


class TokenScorer(nn.Module):
    """A prior of the token itself, plus how it and its place fit the question, plus a preference for places.

    All of it is zero at first, unless `query_start` says otherwise.

    Args:
        config: sizes.
        d_model: width D of features and queries.
    """

    def __init__(self, config: TokenScorerConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        self.norm = RMSNorm(d_model, _EPS)
        self.prior_in = linear(d_model, 2 * config.hidden_size)
        self.prior_out = linear(config.hidden_size, 1)
        self.query = linear(d_model, config.query_size)
        self.key = linear(d_model, config.query_size)
        self.place = linear(_N_WAVES, 1)
        self.place_key = linear(_N_WAVES, config.query_size)

    def forward(
        self, features: Tensor, query: Tensor | None = None, places: Tensor | None = None, crops: Tensor | None = None
    ) -> Tensor:
        """Scores `[B, N]`, float32.

        Args:
            features: `[B, N, D]`.
            query: `[B, D]`; None leaves its term out.
            places: `[B, N, 2]` row and column within the crop, 0 to 1; None leaves the places out.
            crops: `[B, N]` number of the crop; goes with `places`, None: all are of one.
        """
        features = features.detach() if self.config.detach else features
        h = F.dropout(self.norm(features), self.config.dropout, self.training)
        gate, value = self.prior_in(h).chunk(2, dim=-1)
        scores = self.prior_out(F.silu(gate) * value)[..., 0].float()  # [B, N]
        waves = None
        if places is not None:
            crops = places.new_zeros(places.shape[:2]) if crops is None else crops
            waves = place_waves(places, crops).to(features.dtype)  # [B, N, waves]
            scores = scores + self.place(waves)[..., 0].float()
        if query is not None:
            # Embeddings are small, and their mean is smaller; as they are, the question is hardly ever learned from.
            asked = self.query(F.rms_norm(query, query.shape[-1:], eps=_EPS)).float()  # [B, d]
            shown = self.key(h) if waves is None else self.key(h) + self.place_key(waves)  # [B, N, d]
            scores = scores + (shown.float() @ asked[..., None])[..., 0] / math.sqrt(self.config.query_size)
        return scores

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the inner maps; the last of each branch is zero, so all tokens begin as equals but for the question."""
        self.norm.reset_parameters()
        for layer in (self.prior_in, self.key):
            init_linear(layer, generator)
        for layer in (self.prior_out, self.query, self.place, self.place_key):
            nn.init.zeros_(layer.weight)
        if self.config.query_start is QueryStart.matching:
            with torch.no_grad():  # the rows are orthonormal, so products of the widths they keep stay what they are
                nn.init.orthogonal_(self.key.weight, generator=generator)
                self.query.weight.copy_(self.key.weight)


def place_waves(places: Tensor, crops: Tensor) -> Tensor:
    """Sines and cosines `[B, N, waves]` of places `[B, N, 2]`, 0 to 1, and of crop numbers `[B, N]`."""
    octaves = math.pi * 2.0 ** torch.arange(_PLACE_FREQUENCIES, device=places.device)
    steps = 100.0 ** -(torch.arange(_CROP_FREQUENCIES, device=places.device) / _CROP_FREQUENCIES)
    angles = torch.cat([(places[..., None] * octaves).flatten(2), crops[..., None] * steps], dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def untrained_scores(scorer: ScorerType, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Scores `[B, N]`, float32, of `norm`, `uniform` or `random`, for features `[B, N, D]`."""
    n_rows, n_tokens = features.shape[:2]
    if scorer is ScorerType.norm:
        return features.float().norm(dim=-1)
    if scorer is ScorerType.random:
        return torch.rand(n_rows, n_tokens, generator=generator).to(features.device)
    assert scorer is ScorerType.uniform, f"{scorer} has a network or is read from the encoder"
    order = torch.arange(n_tokens, device=features.device, dtype=torch.float64) * _GOLDEN
    return (1 - order.frac()).float().expand(n_rows, n_tokens)

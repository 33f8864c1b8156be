"""`TokenSelector`: scores picture tokens and keeps the best, in their own order.

Knows tensors alone; where tokens stand in a sequence is known to `picture_tokens`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.he_molmo.he_molmo_config import Granularity, ScorerType, TokenScorerConfig, check_ratio
from olmo.models.he_molmo.token_scorer import TokenScorer, untrained_scores

NONE_LEFT = -1
_SEED_OF_RANDOM = 0
_ROUNDING = 1e-9  # 0.1 * 30 is a little more than 3


class SelectionOutput(NamedTuple):
    """What a selection keeps of `[B, N]` tokens; K is the most that a row keeps."""

    selected_features: Tensor
    """`[B, K, D]`, zero behind a row's last."""

    selection_indices: Tensor
    """`[B, K]` int64, ascending, -1 behind a row's last."""

    selection_mask: Tensor
    """`[B, N]` bool, True on tokens that are kept."""

    scores: Tensor
    """`[B, N]` float32, minus infinity where there is no token."""

    gates: Tensor
    """`[B, N]` float32, the sigmoid of the scores over the temperature; 0 where there is no token."""


class TokenSelector(nn.Module):
    """Select the tokens that matter.

    Args:
        config: scorer and selection.
        d_model: width D of the features.
        ratio: share of the tokens that is kept where a call names none, above 0 to 1.
    """

    def __init__(self, config: TokenScorerConfig, d_model: int, ratio: float = 0.25) -> None:
        super().__init__()
        check_ratio(ratio, "ratio")
        self.config, self.ratio = config, ratio
        has_network = config.scorer in (ScorerType.cross, ScorerType.lowres_llm)
        self.scorer = TokenScorer(config, d_model) if has_network else None
        self._random = torch.Generator().manual_seed(_SEED_OF_RANDOM)

    def forward(
        self,
        image_features: Tensor,
        query: Tensor | None = None,
        *,
        is_valid: Tensor | None = None,
        places: Tensor | None = None,
        crops: Tensor | None = None,
        scores: Tensor | None = None,
        ratio: float | None = None,
        n_tokens: Tensor | None = None,
        exploration: float = 0.0,
    ) -> SelectionOutput:
        """Select important tokens based on learned scoring.

        In training the kept features carry the gradient of their scores; their values never change.

        Args:
            image_features: `[B, N, D]`.
            query: `[B, D]`, or `[B, Q, D]`, of which the mean is taken; None: the scores depend on the tokens alone.
            is_valid: bool `[B, N]`, False where there is no token; None: all are.
            places: `[B, N, 2]` row and column within the crop, 0 to 1.
            crops: `[B, N]` number of the crop; None: all are of one.
            scores: `[B, N]` in place of the scorer's.
            ratio: share of the tokens that is kept; None: that of the selector.
            n_tokens: `[B]` tokens that the ratio is of; None: those that are valid.
            exploration: scale of Gumbel noise that is added before the choice.

        Raises:
            OLMoInputError: shapes do not fit, or the ratio is out of range.
        """
        _check_shapes(image_features, query)
        if is_valid is None:
            is_valid = torch.ones(image_features.shape[:2], dtype=torch.bool, device=image_features.device)
        if scores is None:
            scores = self.score(image_features, query, places, crops)
        scores = scores.float().masked_fill(~is_valid, float("-inf"))
        is_kept = self._choose(scores.detach(), is_valid, crops, self._checked(ratio), n_tokens, exploration)
        gates = torch.sigmoid(scores / self.config.temperature)
        counts = is_kept.sum(dim=1)
        indices = (~is_kept).long().argsort(dim=1, stable=True)[:, : int(counts.max())]  # [B, K]
        is_filler = torch.arange(indices.shape[1], device=indices.device) >= counts[:, None]
        chosen = image_features.gather(1, indices[..., None].expand(-1, -1, image_features.shape[-1]))
        if torch.is_grad_enabled() and gates.requires_grad:  # straight through: the factor is 1
            factor = 1 + (gates - gates.detach())
            chosen = chosen * factor.gather(1, indices)[..., None].to(chosen.dtype)
        return SelectionOutput(
            chosen.masked_fill(is_filler[..., None], 0.0),
            indices.masked_fill(is_filler, NONE_LEFT),
            is_kept,
            scores,
            gates,
        )

    def score(
        self,
        image_features: Tensor,
        query: Tensor | None = None,
        places: Tensor | None = None,
        crops: Tensor | None = None,
    ) -> Tensor:
        """Scores `[B, N]`, float32; arguments as in `forward`."""
        if self.scorer is not None:
            return self.scorer(image_features, query.mean(dim=1) if query is not None and query.ndim == 3 else query,
                               places, crops)  # fmt: skip
        if self.config.scorer is ScorerType.vit_attention:
            raise OLMoInputError("scorer=vit_attention reads the picture encoder; hand its scores in as scores=")
        return untrained_scores(self.config.scorer, image_features, self._random)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the scorer's weights."""
        if self.scorer is not None:
            self.scorer.reset_parameters(generator)

    def _checked(self, ratio: float | None) -> float:
        if ratio is None:
            return self.ratio
        try:
            check_ratio(ratio, "selection_ratio")
        except OLMoConfigurationError as error:
            raise OLMoInputError(f"selection_ratio {error.reason}") from None
        return ratio

    def _choose(
        self,
        scores: Tensor,
        is_valid: Tensor,
        crops: Tensor | None,
        ratio: float,
        n_tokens: Tensor | None,
        exploration: float,
    ) -> Tensor:
        """`[B, N]` bool: the tokens to keep."""
        config = self.config
        if exploration > 0.0:
            scores = scores + exploration * -torch.empty_like(scores).exponential_().log()
        n_valid = is_valid.sum(dim=1)
        counts = kept_counts(n_valid if n_tokens is None else n_tokens, ratio, config.min_keep).minimum(n_valid)
        order = scores.argsort(dim=1, descending=True, stable=True)
        needs_crops = config.granularity is Granularity.per_crop or config.min_per_crop > 0 or config.keep_global_crop
        if not needs_crops or crops is None:
            return _ranks(order) < counts[:, None]
        within, sizes = _ranks_within(order, crops.masked_fill(~is_valid, int(crops.max()) + 1))
        if config.granularity is Granularity.per_crop:
            return is_valid & (within < kept_counts(sizes, ratio, config.min_per_crop))
        comes_first = within < config.min_per_crop
        if config.keep_global_crop:
            comes_first = comes_first | (crops == 0)
        order = order.gather(1, (~comes_first.gather(1, order)).long().argsort(dim=1, stable=True))
        return is_valid & (_ranks(order) < counts[:, None])


def kept_counts(n_tokens: Tensor, ratio: float, at_least: int = 1) -> Tensor:
    """`ceil(ratio * n)`, at least `at_least`, at most n, of each count; int64."""
    wanted = (n_tokens.double() * ratio - _ROUNDING).ceil().long()
    return wanted.clamp(min=at_least).minimum(n_tokens)


def n_kept(n_tokens: int, ratio: float, at_least: int = 1) -> int:
    """The same for one count."""
    return min(n_tokens, max(at_least, math.ceil(n_tokens * ratio - _ROUNDING)))


def _ranks(order: Tensor) -> Tensor:
    """Place of each element in `order` `[B, N]`."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def _ranks_within(order: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each token among those of its crop, best first, and the size of its crop; both `[B, N]`."""
    by_crop = order.gather(1, crops.gather(1, order).argsort(dim=1, stable=True))
    sizes = torch.zeros(len(crops), int(crops.max()) + 1, dtype=torch.long, device=crops.device)
    sizes = sizes.scatter_add(1, crops, torch.ones_like(crops))
    starts = sizes.cumsum(dim=1) - sizes
    return _ranks(by_crop) - starts.gather(1, crops), sizes.gather(1, crops)


def _check_shapes(image_features: Tensor, query: Tensor | None) -> None:
    if image_features.ndim != 3 or not image_features.is_floating_point() or image_features.shape[1] == 0:
        raise OLMoInputError(f"image_features must be float [B, N, D] with N above 0, got {list(image_features.shape)}")
    n_rows, _, width = image_features.shape
    if query is not None and (query.ndim not in (2, 3) or (len(query), query.shape[-1]) != (n_rows, width)):
        raise OLMoInputError(f"query must be [{n_rows}, {width}] or [{n_rows}, Q, {width}], got {list(query.shape)}")

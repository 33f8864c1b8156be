"""Next-token cross-entropy, in float32, with label shift, per-token weights and z-loss. Knows nothing of models.

Source: the z-loss is that of PaLM (Chowdhery et al. 2022, section 5).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from olmo.nn.segments import example_of, is_shared

IGNORE = -100


def target_positions(
    labels: torch.Tensor, segment_ids: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where a loss is taken.

    Args:
        labels: `[B, L]` int64 aligned with the tokens, -100 ignored. The token at t is predicted from t - 1.
        segment_ids: `[B, L]` segments (see `olmo.nn.segments`); a token is predicted from its own conversation, or from
            what all conversations of its example share.

    Returns:
        `(rows [n], columns [n], targets [n])`: logits at `[row, column]` should predict `target`.
    """
    valid = labels[:, 1:] != IGNORE
    if segment_ids is not None:
        before, here = segment_ids[:, :-1], segment_ids[:, 1:]
        valid = valid & ((before == here) | (is_shared(before) & (example_of(before) == example_of(here))))
    rows, columns = valid.nonzero(as_tuple=True)
    return rows, columns, labels[rows, columns + 1]


def weighted_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None, z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy and its divisor.

    Args:
        logits: `[n, V]`, any float type; the arithmetic is float32.
        targets: `[n]` int64.
        weights: `[n]` float weight of each token; negative counts as 0. None means 1 each.
        z_loss: coefficient of `logsumexp(logits)^2` a token.

    Returns:
        `(loss_sum, divisor)`, both float32 scalars; their quotient is the mean. With n = 0 the sum is 0 and keeps a
        gradient path.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, targets, reduction="none")  # [n]
    if z_loss:
        losses = losses + z_loss * torch.logsumexp(logits, dim=-1).square()
    if weights is None:
        return losses.sum(), logits.new_tensor(float(targets.numel()))
    weights = weights.float().clamp(min=0.0)
    return (losses * weights).sum(), weights.sum()

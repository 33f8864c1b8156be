"""From the language model's last states to logits where they are wanted, and to the loss."""

from __future__ import annotations

import torch

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.llm_inputs import LlmInputs
from olmo.nn.llm import Llm
from olmo.nn.loss import target_positions, weighted_cross_entropy

_SMALLEST_DIVISOR = 1e-6  # all weights zero: the loss is then 0 instead of NaN


class LogitsAt(ConfigEnum):
    """Positions that logits are made for."""

    all = "all"
    last = "last"
    labels = "labels"


def logits_and_loss(
    llm: Llm, hidden: torch.Tensor, inputs: LlmInputs, logits_at: str = "all", z_loss: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits where they are wanted, and the mean loss over weighted targets.

    Args:
        llm: makes logits from states.
        hidden: `[B, L, D]` states after the final norm.
        inputs: the batch; labels, weights, segments and padding are read.
        logits_at: `"all"`, `"last"` (the last real token of each row) or `"labels"` (where a loss is taken).
        z_loss: coefficient of the softmax z-loss.

    Returns:
        Logits `[B, L, V]`, `[B, 1, V]` or `[n, V]`, and the float32 loss, None without labels. Where no label is valid,
        it is 0 and keeps a gradient path.

    Raises:
        OLMoInputError: an unknown `logits_at`, or `"labels"` without labels.
    """
    try:
        where = LogitsAt.parse(logits_at)
    except OLMoConfigurationError as error:
        raise OLMoInputError(f"logits_at: {error.reason}") from None
    if inputs.labels is None:
        if where is LogitsAt.labels:
            raise OLMoInputError("logits_at='labels' gives logits where a loss is taken; pass labels")
        return llm.logits(_last(hidden, inputs) if where is LogitsAt.last else hidden), None
    rows, columns, targets = target_positions(inputs.labels, inputs.segment_ids)
    if where is LogitsAt.all:
        logits = llm.logits(hidden)  # [B, L, V]
        chosen = logits[rows, columns]  # [n, V]
    else:
        chosen = llm.logits(hidden[rows, columns])  # [n, V]
        logits = chosen if where is LogitsAt.labels else llm.logits(_last(hidden, inputs))
    weights = None if inputs.loss_weights is None else inputs.loss_weights[rows, columns + 1]
    total, divisor = weighted_cross_entropy(chosen, targets, weights, z_loss)
    return logits, total / divisor.clamp(min=_SMALLEST_DIVISOR)


def _last(hidden: torch.Tensor, inputs: LlmInputs) -> torch.Tensor:
    """States `[B, 1, D]` of each row's last real token."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, inputs.last_real_position()][:, None]

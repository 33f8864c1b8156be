"""The door for token ids, masks and labels: shapes and ranges are checked here once, batch dimensions added."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from olmo.exceptions import OLMoInputError
from olmo.nn.llm_config import LlmConfig


@dataclass(frozen=True)
class TextInputs:
    """Checked token tensors of one batch; all have the same B and L."""

    input_ids: torch.Tensor
    """`[B, L]` int64; -1 on padding."""

    attention_mask: torch.Tensor | None
    """`[B, S]` bool validity of every key, cached ones included; None when nothing is padded."""

    position_ids: torch.Tensor
    """`[B, L]` int64."""

    segment_ids: torch.Tensor | None
    """`[B, L]` int64."""

    labels: torch.Tensor | None
    """`[B, L]` int64."""

    loss_weights: torch.Tensor | None
    """`[B, L]` float."""


def text_inputs(
    input_ids: torch.Tensor,
    config: LlmConfig,
    *,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    subsegment_ids: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    loss_masks: torch.Tensor | None = None,
    past_length: int = 0,
) -> TextInputs:
    """Check and complete the token side of a call.

    Args:
        input_ids: `[B, L]`, or `[L]` for one example; -1 marks padding.
        config: sizes of the language model.
        attention_mask: `[B, L]` or `[B, past + L]`, non-zero on real tokens; None: every id but -1 is real.
        position_ids: `[B, L]`; None: count of real tokens before, at least 0.
        subsegment_ids: `[B, L]` message-tree segments.
        labels: `[B, L]` aligned targets, -100 ignored.
        loss_masks: `[B, L]` weights of the labels.
        past_length: tokens already in the cache.

    Raises:
        OLMoInputError: a shape or an id does not fit; the sequence is empty or longer than the context.
    """
    if input_ids.ndim == 1:
        input_ids = input_ids[None]
    if input_ids.ndim != 2 or input_ids.shape[1] == 0 or input_ids.is_floating_point():
        raise OLMoInputError(
            f"input_ids must be integers [B, L] or [L] with at least one token, got {tuple(input_ids.shape)} {input_ids.dtype}"
        )
    input_ids = input_ids.long()
    batch_size, length = input_ids.shape
    _check_ids(input_ids, config)
    if past_length + length > config.max_sequence_length:
        raise OLMoInputError(
            f"{past_length + length} tokens exceed the context of {config.max_sequence_length} (llm.max_sequence_length); "
            "shorten the text, lower mm_preprocessor.max_crops or pass fewer pictures"
        )
    fit = {"labels": labels, "loss_masks": loss_masks, "position_ids": position_ids, "subsegment_ids": subsegment_ids}
    fitted = {name: _like(name, value, batch_size, length) for name, value in fit.items()}
    valid = _key_validity(input_ids, attention_mask, past_length)
    positions = fitted["position_ids"]
    if positions is None:
        seen = valid if valid is not None else torch.ones(batch_size, past_length + length, device=input_ids.device)
        positions = (seen.long().cumsum(dim=1) - 1)[:, past_length:]
    segments = fitted["subsegment_ids"]
    return TextInputs(
        input_ids=input_ids,
        attention_mask=valid,
        position_ids=positions.long().clamp(min=0),
        segment_ids=None if segments is None else segments.long(),
        labels=None if fitted["labels"] is None else fitted["labels"].long(),
        loss_weights=fitted["loss_masks"],
    )


def _check_ids(input_ids: torch.Tensor, config: LlmConfig) -> None:
    rows = config.resolved_embedding_size + config.additional_vocab_size
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < -1 or highest >= rows:
        raise OLMoInputError(
            f"input_ids span {lowest}..{highest}; allowed are 0..{rows - 1} and -1 for padding. "
            "Was the text encoded with this model's tokenizer (config.build_tokenizer())?"
        )


def _like(name: str, value: torch.Tensor | None, batch_size: int, length: int) -> torch.Tensor | None:
    if value is None:
        return None
    if value.ndim == 1:
        value = value[None]
    if tuple(value.shape) != (batch_size, length):
        raise OLMoInputError(
            f"{name} has shape {tuple(value.shape)}, input_ids [{batch_size}, {length}]; they must agree"
        )
    return value


def _key_validity(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, past_length: int
) -> torch.Tensor | None:
    """`[B, past + L]` bool, or None when every key is real."""
    batch_size, length = input_ids.shape
    if attention_mask is None:
        valid = input_ids >= 0
    else:
        if attention_mask.ndim == 1:
            attention_mask = attention_mask[None]
        if tuple(attention_mask.shape) not in {(batch_size, length), (batch_size, past_length + length)}:
            raise OLMoInputError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; wanted [{batch_size}, {length}]"
                + (f" or [{batch_size}, {past_length + length}]" if past_length else "")
            )
        valid = attention_mask != 0
    if bool(valid.all()):
        return None
    if valid.shape[1] == length and past_length:
        valid = torch.cat([valid.new_ones(batch_size, past_length), valid], dim=1)
    return valid

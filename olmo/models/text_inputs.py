"""The door for token ids, masks and labels: shapes and ranges are checked here once, batch dimensions added."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from olmo.exceptions import OLMoInputError
from olmo.models.outputs import PastKeyValues
from olmo.nn.llm_config import LlmConfig
from olmo.nn.loss import IGNORE

Past = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""What `OLMoOutput.past_key_values` holds."""


@dataclass(frozen=True)
class TextInputs:
    """Checked token tensors of one batch on one device; all have the same B and L."""

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
    past: Past | None = None,
    device: torch.device | None = None,
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
        past: keys and values of earlier tokens.
        device: where everything goes; None leaves it where `input_ids` is.

    Raises:
        OLMoInputError: a shape or an id does not fit, or the sequence is empty.
    """
    input_ids = _checked_ids(input_ids, config).to(device)
    batch_size, length = input_ids.shape
    past_length = _checked_past_length(past, config, batch_size)
    if past_length and subsegment_ids is not None:
        raise OLMoInputError("subsegment_ids cannot be passed together with past_key_values; run the tree in one call")
    fit = {"labels": labels, "loss_masks": loss_masks, "position_ids": position_ids, "subsegment_ids": subsegment_ids}
    fitted = {name: _like(name, value, input_ids) for name, value in fit.items()}
    _check_labels(fitted["labels"], config)
    valid = _key_validity(input_ids, attention_mask, past, past_length)
    positions = fitted["position_ids"]
    if positions is None:
        seen = input_ids.new_ones(batch_size, past_length + length) if valid is None else valid.long()
        positions = (seen.cumsum(dim=1) - 1)[:, past_length:]
    segments, targets = fitted["subsegment_ids"], fitted["labels"]
    return TextInputs(
        input_ids=input_ids,
        attention_mask=valid,
        position_ids=positions.long().clamp(min=0),
        segment_ids=None if segments is None else segments.long(),
        labels=None if targets is None else targets.long(),
        loss_weights=fitted["loss_masks"],
    )


def refuse_unknown_arguments(call: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise OLMoInputError that names the arguments of `call` that are not among the known ones."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OLMoInputError(f"{call} does not know {', '.join(unknown)}; it takes {', '.join(sorted(known))}")


def require_tensor(name: str, value: object) -> None:
    """Raise OLMoInputError unless `value` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise OLMoInputError(
            f"{name} must be a tensor, got {type(value).__name__}; config.build_preprocessor(for_inference=True) makes "
            "all tensors from text and pictures"
        )


def _checked_ids(input_ids: torch.Tensor, config: LlmConfig) -> torch.Tensor:
    """`[B, L]` int64."""
    require_tensor("input_ids", input_ids)
    shape = tuple(input_ids.shape)
    is_whole = not (input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool)
    if not is_whole or input_ids.ndim not in (1, 2) or 0 in shape:
        raise OLMoInputError(
            f"input_ids must be integers [B, L] or [L] with at least one token, got {shape} {input_ids.dtype}"
        )
    rows = config.resolved_embedding_size + config.additional_vocab_size
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < -1 or highest >= rows:
        raise OLMoInputError(
            f"input_ids span {lowest}..{highest}; allowed are 0..{rows - 1} and -1 for padding. "
            "Was the text encoded with this model's tokenizer (config.build_tokenizer())?"
        )
    return (input_ids if input_ids.ndim == 2 else input_ids[None]).long()


def _checked_past_length(past: Past | None, config: LlmConfig, batch_size: int) -> int:
    """Tokens in `past`, 0 when there is none."""
    if past is None:
        return 0
    wanted = (batch_size, config.resolved_n_kv_heads, config.resolved_head_dim)
    try:
        shapes = {tuple(part.shape) for pair in past for part in pair}
        (shape,) = shapes
        if len(past) != config.n_layers or any(len(pair) != 2 for pair in past) or (*shape[:2], shape[3]) != wanted:
            raise ValueError(shape)
    except (TypeError, AttributeError, ValueError, IndexError):
        raise OLMoInputError(
            f"past_key_values must be {config.n_layers} pairs (k, v), each [{batch_size}, {wanted[1]}, S, {wanted[2]}] "
            "with one S; pass back what an earlier call with as many rows returned"
        ) from None
    return shape[2]


def row_lengths(text: TextInputs) -> torch.Tensor:
    """`[B]` int64: positions that each row takes, its last real token's and those before. Rows hold a real token."""
    places = torch.arange(text.input_ids.shape[1], device=text.input_ids.device).expand_as(text.input_ids)
    if text.attention_mask is not None:
        places = places.masked_fill(~text.attention_mask[:, -places.shape[1] :], 0)
    return text.position_ids.gather(1, places.amax(dim=1, keepdim=True))[:, 0] + 1


def _check_labels(labels: torch.Tensor | None, config: LlmConfig) -> None:
    if labels is None:
        return
    n_logits = config.resolved_embedding_size
    is_wrong = (labels != IGNORE) & ((labels < 0) | (labels >= n_logits))
    if bool(is_wrong.any()):
        raise OLMoInputError(
            f"labels hold {int(labels[is_wrong][0])}; allowed are 0..{n_logits - 1}, and {IGNORE} where there is "
            "nothing to learn, such as padding and the tokens of pictures"
        )


def check_context(n_tokens: int, config: LlmConfig) -> None:
    """Refuse what is longer than the context.

    Args:
        n_tokens: positions of the longest row.
        config: the language model.

    Raises:
        OLMoInputError: naming both lengths.
    """
    if n_tokens > config.max_sequence_length:
        raise OLMoInputError(
            f"{n_tokens} tokens exceed the context of {config.max_sequence_length} (llm.max_sequence_length); "
            "shorten the text, lower mm_preprocessor.max_crops or pass fewer pictures"
        )


def _like(name: str, value: torch.Tensor | None, input_ids: torch.Tensor) -> torch.Tensor | None:
    """`[B, L]`, on the device of `input_ids`."""
    if value is None:
        return None
    require_tensor(name, value)
    if tuple(value.shape) not in _shapes_like(input_ids):
        raise OLMoInputError(
            f"{name} has shape {tuple(value.shape)}, input_ids {list(input_ids.shape)}; they must agree"
        )
    return value.reshape(input_ids.shape).to(input_ids.device)


def _shapes_like(input_ids: torch.Tensor) -> set[tuple[int, ...]]:
    batch_size, length = input_ids.shape
    return {(batch_size, length), (length,)} if batch_size == 1 else {(batch_size, length)}


def _key_validity(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, past: Past | None, past_length: int
) -> torch.Tensor | None:
    """`[B, past + L]` bool, or None when every key is real."""
    batch_size, length = input_ids.shape
    valid = input_ids >= 0
    before = past.key_is_valid if isinstance(past, PastKeyValues) else None
    if before is None:
        before = valid.new_ones(batch_size, past_length)
    if attention_mask is not None:
        require_tensor("attention_mask", attention_mask)
        mask = attention_mask if attention_mask.ndim == 2 else attention_mask[None]
        if tuple(mask.shape) not in {(batch_size, length), (batch_size, past_length + length)}:
            raise OLMoInputError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; wanted [{batch_size}, {length}]"
                + (f" or [{batch_size}, {past_length + length}]" if past_length else "")
            )
        mask = mask.to(valid.device) != 0
        valid = valid & mask[:, -length:]
        before = mask[:, :-length] if mask.shape[1] > length else before
    valid = torch.cat([before.to(valid.device), valid], dim=1)
    return None if bool(valid.all()) else valid

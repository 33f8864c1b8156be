"""`LlmInputs`: all that stands between fusing pictures into text and running the language model.

Transforms (token selection, temporal aggregation, ...) are functions `LlmInputs -> LlmInputs`; because everything that
belongs to a token travels in this one object, a transform that shortens the sequence cannot forget a field.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.attention.flex_attention import BlockMask

from olmo.config import ConfigEnum
from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.flex_mask import build_block_mask


class BiDirectionalAttention(ConfigEnum):
    """Which tokens may look ahead. Text rows are causal in every mode."""

    within_image = "within_image"
    image_tokens = "image_tokens"
    image_to_question = "image_to_question"


@dataclass(frozen=True)
class LlmInputs:
    """A batch on its way into the language model. L is the same in all fields."""

    embeds: torch.Tensor
    """`[B, L, D]` token embeddings with picture features added."""

    position_ids: torch.Tensor
    """`[B, L]` int64 rotary positions, >= 0."""

    attention_mask: torch.Tensor | None = None
    """`[B, L]` bool, False on padding; None when nothing is padded."""

    segment_ids: torch.Tensor | None = None
    """`[B, L]` int64 segments of message trees and packed rows; see `olmo.nn.segments`."""

    labels: torch.Tensor | None = None
    """`[B, L]` int64 targets aligned with the tokens, -100 where there is none."""

    loss_weights: torch.Tensor | None = None
    """`[B, L]` float weight of each label."""

    image_groups: torch.Tensor | None = None
    """`[B, L]` int64: 0 on text, 1, 2, ... on each run of picture tokens. Needed by bidirectional modes only."""

    aux: dict[str, torch.Tensor] = field(default_factory=dict)
    """What happened on the way, for `OLMoOutput.aux`; scalars whose names begin with `loss_` are added to the loss."""

    def last_real_position(self) -> torch.Tensor:
        """`[B]` int64 index, within L, of each row's last token that is not padding."""
        valid = self.real_tokens()
        return (torch.arange(valid.shape[1], device=valid.device) * valid).argmax(dim=1)

    def real_tokens(self) -> torch.Tensor:
        """`[B, L]` bool, False on padding."""
        if self.attention_mask is None:
            return torch.ones(self.embeds.shape[:2], dtype=torch.bool, device=self.embeds.device)
        return self.attention_mask[:, -self.embeds.shape[1] :]


def visible_keys(
    inputs: LlmInputs, mode: BiDirectionalAttention | None, past_length: int = 0, in_blocks: bool = False
) -> torch.Tensor | BlockMask | None:
    """The attention mask of a batch.

    Args:
        inputs: the batch; `attention_mask` covers the cached tokens too when there are any.
        mode: bidirectional mode, None for causal everywhere.
        past_length: tokens already in the cache.
        in_blocks: make a block mask for FlexAttention; only without a cache.

    Returns:
        bool `[B, 1, L, S]`, True where a row may look, or the same in blocks, or None for plain causal attention.
    """
    length = inputs.embeds.shape[1]
    valid, groups, rows, keys = inputs.attention_mask, None, None, None
    if mode is not None and inputs.image_groups is not None and bool(inputs.image_groups.any()):
        groups = inputs.image_groups
        if mode is BiDirectionalAttention.image_tokens:
            groups = (groups > 0).long()
        elif mode is BiDirectionalAttention.image_to_question:
            rows, keys, groups = _image_to_question(inputs)
    is_plain = past_length == 0 and groups is None and inputs.segment_ids is None
    if is_plain and valid is not None and not bool((valid[:, 1:] & ~valid[:, :-1]).any()):
        valid = None  # padding on the right alone: causality hides it from every real token
    facts = {
        "key_is_valid": valid,
        "segment_ids": inputs.segment_ids,
        "group_ids": groups,
        "free_rows": rows,
        "free_keys": keys,
    }
    if in_blocks:
        assert past_length == 0, "block masks are made for passes without a cache"
        return build_block_mask(length, **facts)
    return build_attention_mask(length, past_length=past_length, **facts)


def _image_to_question(inputs: LlmInputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Picture rows see every token that is not part of an answer (labels mark answers; at inference all is prompt)."""
    assert inputs.image_groups is not None, "the caller looked"
    rows = inputs.image_groups > 0
    keys = torch.ones_like(rows) if inputs.labels is None else inputs.labels == -100
    return rows, keys, rows.long()

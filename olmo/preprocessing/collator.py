"""`MMCollator`: a list of preprocessed examples, or of packed rows of them, to one batch, padded on the right.

Fillers: `input_ids`, `position_ids`, `subsegment_ids` -1, `labels` -100, `loss_masks` 0; crops, masks and indices of
missing pictures -1. Knows only the preprocessor's keys, nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.packed import pack_examples, same_size, with_segments

_TEXT_FILLERS: dict[str, int | float] = {
    "input_ids": -1,
    "labels": -100,
    "loss_masks": 0.0,
    "position_ids": -1,
    "subsegment_ids": -1,
}
_CROP_KEYS = ("images", "image_masks", "image_input_idx", "frame_facts")
_CROP_FILLER = -1
_TOKENS_AFTER_LAST_PATCH = 2


class PadMode(ConfigEnum):
    """How long a batch is made."""

    to_max = "to_max"


class MMCollator:
    """Makes batches of examples; see the module docstring for the fillers."""

    def __init__(self, sequence_length: int | None, pad_mode: str | None = None, include_metadata: bool = True) -> None:
        """Set the length.

        Args:
            sequence_length: longest sequence in tokens; longer text is cut, pictures never. None: no limit.
            pad_mode: None pads to the longest example of the batch, `"to_max"` to `sequence_length`.
            include_metadata: pass what is not a tensor through, as a list of dicts under `metadata`.

        Raises:
            OLMoConfigurationError: an unknown `pad_mode`, or `"to_max"` without a `sequence_length`.
        """
        if sequence_length is not None and sequence_length < 1:
            raise OLMoConfigurationError(f"must be at least 1 or None, got {sequence_length}", "sequence_length")
        try:
            self.pad_mode = None if pad_mode is None else PadMode.parse(pad_mode)
        except OLMoConfigurationError as error:
            raise OLMoConfigurationError(f"{error.reason} or None", "pad_mode") from None
        if self.pad_mode is PadMode.to_max and sequence_length is None:
            raise OLMoConfigurationError("'to_max' pads to sequence_length, which is None; give a length", "pad_mode")
        self.sequence_length = sequence_length
        self.include_metadata = include_metadata

    def __call__(self, rows: Sequence[dict[str, Any] | Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """Collate examples of one preprocessor.

        Args:
            rows: outputs of a `Preprocessor`; pictures and several conversations may be in some only. Where a list of
                them stands in place of one, they share a row; see `pack_examples`.

        Returns:
            The keys of the examples with a leading B, and `attention_mask` int64 `[B, L]`, 1 on real tokens. In
            `metadata` a packed row has a list, that of each of its examples.

        Raises:
            OLMoInputError: no examples, only some with labels, or a picture's tokens past `sequence_length`.
        """
        if not rows or any(len(row) == 0 for row in rows):
            raise OLMoInputError("cannot collate an empty list of examples")
        has_labels = {"labels" in example for row in rows for example in ([row] if isinstance(row, dict) else row)}
        if len(has_labels) > 1:
            raise OLMoInputError("some examples have labels and some have none; build all with one preprocessor")
        batch = self._batch([row if isinstance(row, dict) else pack_examples(row) for row in rows])
        if self.include_metadata:
            batch["metadata"] = [
                _metadata_of(row) if isinstance(row, dict) else [_metadata_of(example) for example in row]
                for row in rows
            ]
        return batch

    def _batch(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of a batch."""
        rows = [self._cut(e) for e in _with_segments(examples)]
        longest = max(len(row["input_ids"]) for row in rows)
        length = self.sequence_length if self.pad_mode is PadMode.to_max else longest
        assert length is not None, "checked at construction"
        batch: dict[str, Any] = {
            key: torch.stack([_pad_to(row[key], length, filler) for row in rows])
            for key, filler in _TEXT_FILLERS.items()
            if key in rows[0]
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(length) < lengths[:, None]).long()
        batch.update(_collate_crops(examples))
        return batch

    def _cut(self, example: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The text tensors of an example, no longer than allowed."""
        row = {key: example[key] for key in _TEXT_FILLERS if key in example}
        length, limit = len(row["input_ids"]), self.sequence_length
        if limit is None or length <= limit:
            return row
        last = int(example["image_input_idx"].max()) if "image_input_idx" in example else -1
        # A picture ends with a column token and an end token behind its last patch.
        needed = min(length, last + 1 + _TOKENS_AFTER_LAST_PATCH) if last >= 0 else 0
        if needed > limit:
            raise OLMoInputError(
                f"an example's pictures take the first {needed} tokens, more than sequence_length={limit}; pictures "
                "are never cut: lower mm_preprocessor.max_crops, give fewer pictures or raise sequence_length"
            )
        return {key: value[:limit] for key, value in row.items()}


def _with_segments(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every example segments and positions if one has them."""
    if not any("subsegment_ids" in e for e in examples):
        return list(examples)
    return [with_segments(example) for example in examples]


def _collate_crops(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pictured = [e for e in examples if "images" in e]
    if not pictured:
        return {}
    n_crops = max(len(e["images"]) for e in pictured)
    batch = {}
    for key in _CROP_KEYS:
        if key not in pictured[0]:
            continue
        empty = pictured[0][key][:0]
        crops = same_size([e.get(key, empty) for e in examples])
        batch[key] = torch.stack([_pad_to(c, n_crops, _CROP_FILLER) for c in crops])
    return batch


def _pad_to(values: torch.Tensor, length: int, filler: int | float) -> torch.Tensor:
    """`[n, ...] -> [length, ...]`."""
    out = values.new_full((length, *values.shape[1:]), filler)
    out[: len(values)] = values
    return out


def _metadata_of(example: dict[str, Any]) -> dict[str, Any]:
    others = {k: v for k, v in example.items() if k != "metadata" and not isinstance(v, torch.Tensor)}
    return {**example.get("metadata", {}), **others}

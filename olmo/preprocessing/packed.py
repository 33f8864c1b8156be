"""Several examples in one row of a batch, kept apart by segments; and how the segments of one example are numbered.

Nothing of an example changes but where it lies: positions count from 0 in each, the indices of its pictures move with
it, and its segments are offset so that no token sees another example's. Source of the numbers: `olmo.nn.segments`,
which a test compares with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

SHARED_SEGMENT = 10_000
"""Segment of what all conversations of an example see: the first token and the pictures."""

EXAMPLE_STRIDE = 20_000
"""What the segments of an example are offset by, for each example before it in its row."""

_PER_TOKEN = ("input_ids", "labels", "loss_masks", "position_ids", "subsegment_ids")
_PER_CROP = ("images", "image_masks", "frame_facts")


def pack_examples(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several examples, one behind the other.

    Args:
        examples: outputs of one `Preprocessor`, at least one, all with labels or none; pictures may be in some only.

    Returns:
        An example with the same keys. `position_ids` and `subsegment_ids` are always there unless there is only one
        plain example, whose row is as without packing. What is not a tensor is left out.
    """
    if len(examples) == 1:
        return {key: value for key, value in examples[0].items() if isinstance(value, torch.Tensor)}
    filled = [with_segments(example) for example in examples]
    row: dict[str, Any] = {
        key: torch.cat([example[key] for example in filled]) for key in _PER_TOKEN if key in filled[0]
    }
    lengths = [len(example["input_ids"]) for example in filled]
    offsets = torch.arange(len(filled)).repeat_interleave(torch.tensor(lengths)) * EXAMPLE_STRIDE
    row["subsegment_ids"] = row["subsegment_ids"] + offsets
    return {**row, **_joined_crops(filled, lengths)}


def with_segments(example: dict[str, Any]) -> dict[str, Any]:
    """The example with segments and positions; those of a plain one are 1, and 0, 1, 2, ..."""
    ids = example["input_ids"]
    return {"subsegment_ids": torch.ones_like(ids), "position_ids": torch.arange(len(ids)), **example}


def _joined_crops(examples: Sequence[dict[str, Any]], lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """All crops of the row, their positions counted from its start."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    pictured = [(example, start) for example, start in zip(examples, starts, strict=True) if "images" in example]
    if not pictured:
        return {}
    crops = {
        key: torch.cat(same_size([example[key] for example, _ in pictured]))
        for key in _PER_CROP
        if key in pictured[0][0]
    }
    moved = [(example["image_input_idx"], start) for example, start in pictured]
    crops["image_input_idx"] = torch.cat([torch.where(index >= 0, index + start, index) for index, start in moved])
    return crops


def same_size(crops: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Crops `[N, ...]` of several examples with equal sizes behind N: smaller frames get -1 at the right and below."""
    sizes = [max(sizes) for sizes in zip(*(c.shape[1:] for c in crops), strict=True)]
    return [
        c
        if list(c.shape[1:]) == sizes
        else F.pad(c, [n for s, has in zip(sizes[::-1], c.shape[:0:-1], strict=True) for n in (0, s - has)], value=-1)
        for c in crops
    ]

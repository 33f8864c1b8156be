"""Rows of tokens with videos, taken apart and put together again: frames left out, or given blocks of another size.

Everything that belongs to a token moves with it. Positions are those that the new row would have had from the start, so
a row with some of its frames left out is exactly the row of a video that never had them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.models.text_inputs import TextInputs
from olmo.nn.loss import IGNORE
from olmo.nn.segments import EXAMPLE_STRIDE
from olmo.preprocessing.image_tokens import UNUSED, ImageTokenIds, block_spans, token_block

Size = tuple[int, int]
"""Rows and columns of patch tokens in a block."""


@dataclass(frozen=True)
class FrameSpan:
    """Where a frame is in its row: its time from `begin`, its block from `start` to `end`, all counted from 0."""

    begin: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Tokens of time and block."""
        return self.end + 1 - self.begin


def frame_spans(tokens: np.ndarray, ids: ImageTokenIds, has_common_text: bool) -> list[FrameSpan]:
    """The frames of a row without padding, int64 `[L]`, that begins with its first token and then a video.

    Args:
        tokens: ids.
        ids: of the picture tokens.
        has_common_text: the text before the first block belongs to no frame in particular.
    """
    spans = block_spans(tokens, ids)
    begins = [1, *(end + 1 for _, end in spans)]
    if spans and has_common_text:
        begins[0] = spans[0][0]
    return [FrameSpan(begin, start, end) for begin, (start, end) in zip(begins, spans, strict=False)]


def new_row(
    tokens: np.ndarray, spans: Sequence[FrameSpan], sizes: Sequence[Size | None], has_cols: bool, ids: ImageTokenIds
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Lay a row out anew.

    Args:
        tokens: its ids without padding, int64 `[L]`.
        spans: its frames.
        sizes: the block that each frame gets; None leaves the frame out.
        has_cols: rows of patches are closed by column tokens.
        ids: of the picture tokens.

    Returns:
        New ids `[L']`; for each new token the old one that it comes from `[L']` (for a block of another size the old
        start token stands for all); and positions of the patch tokens of each frame.
    """
    first = spans[0].begin if spans else len(tokens)
    parts, sources, places = [tokens[:first]], [np.arange(first)], []
    length = first
    for span, size in zip(spans, sizes, strict=True):
        if size is None:
            places.append(np.zeros(0, dtype=np.int64))
            continue
        block, old = token_block(*size, has_cols, ids), tokens[span.start : span.end + 1]
        is_same = np.array_equal(block, old)
        parts += [tokens[span.begin : span.start], block]
        sources += [
            np.arange(span.begin, span.start),
            np.arange(span.start, span.end + 1) if is_same else np.full(len(block), span.start),
        ]
        length += span.start - span.begin
        places.append(length + np.flatnonzero(block == ids.patch))
        length += len(block)
    rest = spans[-1].end + 1 if spans else len(tokens)
    parts.append(tokens[rest:])
    sources.append(np.arange(rest, len(tokens)))
    return np.concatenate(parts), np.concatenate(sources), places


@dataclass(frozen=True)
class NewRow:
    """A row of tokens, and where they come from.

    Attributes:
        ids: int64 `[L']`.
        source: old place of each `[L']`, in the row with its padding.
        n_shared: first token and video, which all that follows shares and keeps its distance to.
        n_shared_before: so many they were, padding not counted.
        places: positions of the patch tokens of each frame.
    """

    ids: np.ndarray
    source: np.ndarray
    n_shared: int
    n_shared_before: int
    places: list[np.ndarray]


def rebuilt_text(text: TextInputs, rows: Sequence[NewRow]) -> TextInputs:
    """The batch with new rows, padded on the right."""
    device, longest = text.input_ids.device, max(len(row.ids) for row in rows)
    new_ids = text.input_ids.new_full((len(rows), longest), -1)
    source = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    positions = torch.zeros_like(source)
    for i, row in enumerate(rows):
        n, n_shared = len(row.ids), row.n_shared
        new_ids[i, :n] = torch.from_numpy(row.ids).to(device)
        source[i, :n] = torch.from_numpy(row.source).to(device)
        # What follows may be several conversations, each of which counts on from what is shared.
        positions[i, :n] = text.position_ids[i, source[i, :n]] + (n_shared - row.n_shared_before)
        positions[i, :n_shared] = torch.arange(n_shared, device=device)
    valid = new_ids >= 0

    def moved(values: torch.Tensor | None, filler: float) -> torch.Tensor | None:
        return None if values is None else values.gather(1, source).masked_fill(~valid, filler)

    return replace(
        text,
        input_ids=new_ids,
        attention_mask=None if bool(valid.all()) else valid,
        position_ids=positions,
        segment_ids=moved(text.segment_ids, -1),
        labels=moved(text.labels, IGNORE),
        loss_weights=moved(text.loss_weights, 0.0),
    )


def refuse_packed(text: TextInputs) -> None:
    """Frames are chosen by the one question of a row.

    Raises:
        OLMoInputError: several examples share a row.
    """
    if text.segment_ids is not None and int(text.segment_ids.max()) >= EXAMPLE_STRIDE:
        raise OLMoInputError(
            "frame_selection reads one question for each row, but several examples share one; train with pack=false"
        )


def entries(places: Sequence[np.ndarray], width: int) -> np.ndarray:
    """`image_input_idx` `[frames, width]` of frames at these positions."""
    index = np.full((len(places), width), UNUSED, dtype=np.int64)
    for frame, place in enumerate(places):
        index[frame, : len(place)] = place
    return index

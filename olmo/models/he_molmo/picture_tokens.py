"""The picture tokens of a batch, row by row in the order of the sequence, and a batch without some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from olmo.models.picture_inputs import PictureInputs
from olmo.models.text_inputs import TextInputs
from olmo.nn.loss import IGNORE
from olmo.preprocessing.image_tokens import UNUSED, ImageTokenIds


@dataclass(frozen=True)
class PictureTokens:
    """Picture tokens `[B, N]`, of which a row without so many holds fillers at its end."""

    features: torch.Tensor
    """`[B, N, D]`, zero on fillers."""

    is_valid: torch.Tensor
    """`[B, N]` bool, False on fillers."""

    positions: torch.Tensor
    """`[B, N]` int64 place in the sequence, ascending; 0 on fillers."""

    crops: torch.Tensor
    """`[B, N]` int64 number of the crop or frame among those that the row was given; 0 on fillers."""

    places: torch.Tensor
    """`[B, N, 2]` float32 row and column of the token's middle within its crop, 0 to 1; 0 on fillers."""


def picture_tokens(pictures: PictureInputs, features: torch.Tensor, n_rows: int) -> PictureTokens:
    """Sort the features of crops by the row and place they belong to.

    Args:
        pictures: the crops, in order of their rows; their facts are known.
        features: `[M, entries, D]` of them.
        n_rows: rows of the batch.
    """
    assert pictures.facts is not None and pictures.numbers is not None, "frame_inputs gives them"
    crop, entry = (pictures.token_index >= 0).nonzero(as_tuple=True)  # [T]
    longest = int(pictures.token_index.max()) + 1 if len(crop) else 1
    # Joined frames share their tokens, whose features are then the sum, as in the embeddings.
    keys, token = torch.unique(pictures.rows[crop] * longest + pictures.token_index[crop, entry], return_inverse=True)
    first = torch.full_like(keys, len(crop)).scatter_reduce(
        0, token, torch.arange(len(crop), device=crop.device), "amin"
    )
    summed = features.new_zeros(len(keys), features.shape[-1]).index_add(0, token, features[crop, entry])
    rows, positions = keys // longest, keys % longest
    counts = torch.bincount(rows, minlength=n_rows)
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    crop, entry = crop[first], entry[first]
    _, grid, high, wide = pictures.facts.long()[crop].unbind(1)
    n_down, n_across = _pooled_sides(grid, high), _pooled_sides(grid, wide)
    places = torch.stack([(entry // n_across + 0.5) / n_down, (entry % n_across + 0.5) / n_across], dim=1).float()
    shape = (n_rows, max(1, int(counts.max()) if n_rows else 0))

    def laid_out(values: torch.Tensor) -> torch.Tensor:
        filled = values.new_zeros(*shape, *values.shape[1:])
        return filled.index_put((rows, slots), values)

    return PictureTokens(
        features=laid_out(summed),
        is_valid=laid_out(torch.ones_like(rows, dtype=torch.bool)),
        positions=laid_out(positions),
        crops=laid_out(pictures.numbers[crop]),
        places=laid_out(places),
    )


def _pooled_sides(grid: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    """Windows that cover a side of so many patches."""
    return -(-grid // pool)


def shortened(
    text: TextInputs, pictures: PictureInputs, is_dropped: torch.Tensor, ids: ImageTokenIds
) -> tuple[TextInputs, PictureInputs]:
    """A batch without some of its picture tokens, padded on the right. What stays keeps its position.

    A column token goes with the last patch token of its line; start and end tokens stay.

    Args:
        text: the batch.
        pictures: its crops.
        is_dropped: bool `[B, L]`, True on the patch tokens to leave out.
        ids: of the picture tokens.
    """
    if not bool(is_dropped.any()):
        return text, pictures
    is_real = text.input_ids >= 0
    if text.attention_mask is not None:
        is_real = is_real & text.attention_mask
    stays = is_real & ~is_dropped & ~_closes_nothing(text.input_ids, is_dropped, ids)
    lengths = stays.sum(dim=1)
    source = (~stays).long().argsort(dim=1, stable=True)[:, : int(lengths.max())]  # [B, L']
    is_valid = torch.arange(source.shape[1], device=source.device) < lengths[:, None]

    def moved(values: torch.Tensor | None, filler: float) -> torch.Tensor | None:
        return None if values is None else values.gather(1, source).masked_fill(~is_valid, filler)

    new_ids, positions = moved(text.input_ids, -1), moved(text.position_ids, 0)
    assert new_ids is not None and positions is not None, "every batch has both"
    shorter = replace(
        text,
        input_ids=new_ids,
        attention_mask=None if bool(is_valid.all()) else is_valid,
        position_ids=positions,
        segment_ids=moved(text.segment_ids, -1),
        labels=moved(text.labels, IGNORE),
        loss_weights=moved(text.loss_weights, 0.0),
    )
    new_place = (stays.long().cumsum(dim=1) - 1).masked_fill(~stays, UNUSED)  # [B, L]
    index = pictures.token_index
    index = torch.where(index >= 0, new_place[pictures.rows[:, None], index.clamp(min=0)], index)
    return shorter, replace(pictures, token_index=index)


def _closes_nothing(input_ids: torch.Tensor, is_dropped: torch.Tensor, ids: ImageTokenIds) -> torch.Tensor:
    """`[B, L]`: column tokens whose line of patch tokens is dropped entirely."""
    is_col, is_patch = input_ids == ids.col, input_ids == ids.patch
    line = (is_col.long().cumsum(dim=1) - is_col.long()) + (input_ids == ids.start).long().cumsum(dim=1)  # [B, L]
    n_lines = int(line.max()) + 1

    def per_line(what: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(len(line), n_lines, dtype=torch.long, device=line.device)
        return counts.scatter_add(1, line, what.long()).gather(1, line)

    return is_col & (per_line(is_patch & is_dropped) > 0) & (per_line(is_patch & ~is_dropped) == 0)

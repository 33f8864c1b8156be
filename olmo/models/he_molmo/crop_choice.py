"""Which high-resolution crops of a picture are worth encoding, found out from its global crop and the question.

A crop counts as much as the best tokens of the global crop that lie where it lies. Knows no model: it is handed the
scores of tokens, and says which crops to encode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.he_molmo.token_selector import n_kept
from olmo.models.picture_inputs import PictureInputs
from olmo.models.text_inputs import TextInputs
from olmo.preprocessing.image_tokens import ImageTokenIds
from olmo.preprocessing.preprocessor_config import CropMode

BEST_TOKENS = 4
"""Tokens of the global crop whose mean score is that of a high-resolution crop."""


def high_res_crops(text: TextInputs, pictures: PictureInputs, config: HeMolmoConfig) -> Tensor:
    """`[M]` bool: crops that belong to the second block of tokens of a picture, that of its high-resolution crops."""
    assert pictures.facts is not None, "frame_inputs gives them"
    if config.mm_preprocessor.crop_mode is CropMode.resize:
        return torch.zeros_like(pictures.rows, dtype=torch.bool)
    block = (text.input_ids == config.image_token_ids.start).long().cumsum(dim=1)  # [B, L]
    return (pictures.facts[:, 0] < 0) & (block[pictures.rows, _first_places(pictures)] % 2 == 0)


def crops_to_encode(
    text: TextInputs,
    pictures: PictureInputs,
    is_high: Tensor,
    global_scores: Tensor,
    crop_ratio: float,
    ids: ImageTokenIds,
) -> Tensor:
    """`[M]` bool: all that are not of high resolution, and of each picture the best of those that are.

    Args:
        text: the batch.
        pictures: its crops.
        is_high: `[M]` bool, as `high_res_crops` gives it.
        global_scores: `[M, entries]` scores of the tokens of the other crops.
        crop_ratio: share of a picture's high-resolution crops to encode, above 0 to 1.
        ids: of the picture tokens.
    """
    places = _places_in_block(text, pictures, ids)  # [M, entries, 2]
    block = (text.input_ids == ids.start).long().cumsum(dim=1)
    blocks = block[pictures.rows, _first_places(pictures)]
    chosen, used = ~is_high, pictures.token_index >= 0
    for row, number in {(int(r), int(b)) for r, b in zip(pictures.rows[is_high], blocks[is_high], strict=True)}:
        members = (is_high & (pictures.rows == row) & (blocks == number)).nonzero()[:, 0]
        overview = ((pictures.rows == row) & (blocks == number - 1)).nonzero()[0, 0]
        seen = used[overview]
        shown, scores = places[overview][seen], global_scores[overview][seen]
        values = torch.stack([_value(places[crop][used[crop]], shown, scores) for crop in members])
        best = values.argsort(descending=True, stable=True)[: n_kept(len(members), crop_ratio)]
        chosen[members[best]] = True
    return chosen


def _first_places(pictures: PictureInputs) -> Tensor:
    """`[M]`: place in its row of the first token of each crop."""
    index = pictures.token_index
    return index.masked_fill(index < 0, torch.iinfo(torch.long).max).amin(dim=1)


def _places_in_block(text: TextInputs, pictures: PictureInputs, ids: ImageTokenIds) -> Tensor:
    """`[M, entries, 2]` float: row and column of the middle of each token within its block, 0 to 1."""
    tokens = text.input_ids
    is_start, is_col, is_patch = tokens == ids.start, tokens == ids.col, tokens == ids.patch
    block = is_start.long().cumsum(dim=1)
    lines, across = is_col.long().cumsum(dim=1), is_patch.long().cumsum(dim=1)
    n_blocks = int(block.max()) + 1

    def of_block(values: Tensor, reduce: str) -> Tensor:
        found = torch.zeros(len(block), n_blocks, dtype=torch.long, device=block.device)
        return found.scatter_reduce(1, block, values, reduce, include_self=False).gather(1, block)

    n_rows = of_block(is_col.long(), "sum").clamp(min=1)
    row = lines - of_block(lines, "amin")
    n_columns = (of_block(is_patch.long(), "sum") // n_rows).clamp(min=1)
    column = (across - 1 - of_block(across, "amin")) % n_columns
    places = torch.stack([(row + 0.5) / n_rows, (column + 0.5) / n_columns], dim=-1)  # [B, L, 2]
    return places[pictures.rows[:, None], pictures.token_index.clamp(min=0)]


def _value(crop: Tensor, shown: Tensor, scores: Tensor) -> Tensor:
    """Mean of the best scores among tokens at `shown` `[n, 2]` that lie within the places `crop` `[k, 2]`."""
    low, high = crop.amin(dim=0), crop.amax(dim=0)
    is_inside = ((shown >= low) & (shown <= high)).all(dim=1)
    if not bool(is_inside.any()):  # a crop between two of few tokens: the nearest stands for it
        is_inside = torch.zeros_like(is_inside)
        is_inside[((shown - (low + high) / 2) ** 2).sum(dim=1).argmin()] = True
    inside = scores[is_inside]
    return inside.topk(min(BEST_TOKENS, len(inside))).values.mean()

"""The question as the first layers of the language model read it behind a coarse picture.

The coarse picture is the global crop of each picture; pictures of one crop, and frames, are halved in both directions.
It runs apart from the pass that answers: there, kept tokens stand before the question, so its cache is of no use.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.models.he_molmo.crop_choice import high_res_crops
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.picture_inputs import PictureInputs
from olmo.models.text_inputs import TextInputs
from olmo.nn.llm import Llm
from olmo.preprocessing.preprocessor_config import CropMode
from olmo.preprocessing.video.video_spec import pooled_side


def read_question(
    llm: Llm,
    text: TextInputs,
    embeds: Tensor,
    is_question: Tensor,
    pictures: PictureInputs,
    features: Tensor,
    config: HeMolmoConfig,
) -> Tensor:
    """States `[B, D]` after the last token of each question; zeros for a row that asks nothing.

    Args:
        llm: the language model.
        text: the batch.
        embeds: `[B, L, D]` token embeddings, pictures not added.
        is_question: bool `[B, L]`.
        pictures: the crops.
        features: `[M, entries, D]` of them.
        config: the model.
    """
    n_layers = max(1, math.ceil(config.llm.n_layers * config.token_scorer.low_res_layers))
    states = embeds.new_zeros(len(embeds), embeds.shape[-1])
    coarse = _coarse(pictures, features, high_res_crops(text, pictures, config), config)
    for row in range(len(embeds)):
        asked = embeds[row, is_question[row]]
        if not len(asked):
            continue
        seen = [tokens for crop, tokens in coarse if int(pictures.rows[crop]) == row]
        sequence = torch.cat([*(tokens.to(asked.dtype) for tokens in seen), asked])[None]
        positions = torch.arange(sequence.shape[1], device=sequence.device)[None]
        states[row] = llm(sequence, position_ids=positions, n_layers=n_layers).hidden[0, -1]
    return states


def _coarse(
    pictures: PictureInputs, features: Tensor, is_high: Tensor, config: HeMolmoConfig
) -> list[tuple[int, Tensor]]:
    """Number of each crop that is part of the coarse pictures, and its tokens `[n, D]`."""
    assert pictures.facts is not None, "frame_inputs gives them"
    is_cut, found = config.mm_preprocessor.crop_mode is not CropMode.resize, []
    for crop, (seconds, grid, high, wide) in enumerate(pictures.facts.tolist()):
        if bool(is_high[crop]):
            continue
        sides = pooled_side(int(grid), int(high)), pooled_side(int(grid), int(wide))
        tokens = features[crop, : sides[0] * sides[1]]
        if seconds >= 0 or not is_cut:
            square = tokens.T.reshape(1, -1, *sides)
            tokens = F.avg_pool2d(square, 2, ceil_mode=True, count_include_pad=False)[0].flatten(1).T
        found.append((crop, tokens))
    return found

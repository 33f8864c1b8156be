"""Choosing among encoded frames by the question: which stay, or which are shown more finely.

The scores come from `frame_scorer`, the new rows from `frame_rows`. Frames stay in order of time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.models.picture_inputs import PictureInputs
from olmo.models.text_inputs import TextInputs
from olmo.models.video_olmo.frame_rows import NewRow, Size, entries, frame_spans, new_row, rebuilt_text, refuse_packed
from olmo.models.video_olmo.frame_scorer import FrameScorer, chosen_frames, gates, question_means
from olmo.models.video_olmo.video_olmo_config import FrameChoice, VideoOlmoConfig
from olmo.nn.loss import IGNORE
from olmo.preprocessing.image_tokens import UNUSED, ImageTokenIds
from olmo.preprocessing.video.video_spec import TimeMode, pooled_side

Encode = Callable[[PictureInputs], torch.Tensor]
"""Features `[M, entries, D]` of crops."""


@dataclass(frozen=True)
class FrameScores:
    """How the frames of a batch fit the questions of their rows."""

    scores: torch.Tensor
    """`[M]` float32; 0 for crops of pictures."""

    is_asked: torch.Tensor
    """`[B]` bool: whether the row has a question."""


def score_frames(
    scorer: FrameScorer,
    text: TextInputs,
    embeds: torch.Tensor,
    pictures: PictureInputs,
    features: torch.Tensor,
    ids: ImageTokenIds,
) -> FrameScores:
    """Score frames.

    Args:
        scorer: the network.
        text: the batch.
        embeds: `[B, L, D]` of its tokens, pictures not added.
        pictures: its crops.
        features: `[M, entries, D]` of them.
        ids: of the picture tokens; the question is what follows the last of them and is no answer.
    """
    assert pictures.facts is not None, "frame_inputs gives them"
    means, is_asked = question_means(embeds, is_question(text, ids))
    used = (pictures.token_index >= 0)[..., None].to(features.dtype)
    frames = (features * used).sum(dim=1) / used.sum(dim=1)  # [M, D]
    scores = scorer(means[pictures.rows], frames)
    return FrameScores(scores.masked_fill(pictures.facts[:, 0] < 0, 0.0), is_asked)


def choose(
    text: TextInputs,
    pictures: PictureInputs,
    features: torch.Tensor,
    scored: FrameScores,
    config: VideoOlmoConfig,
    encode: Encode,
) -> tuple[TextInputs, PictureInputs, torch.Tensor]:
    """Apply `config.frame_selection` to a batch.

    Args:
        text: the batch.
        pictures: its crops.
        features: `[M, entries, D]` of them.
        scored: their scores.
        config: the model.
        encode: encodes crops whose windows changed.

    Returns:
        The batch, its crops and their features afterwards. Chosen frames carry the gradient of their scores.

    Raises:
        OLMoInputError: several examples share a row, or frames and blocks of tokens do not match.
    """
    refuse_packed(text)
    drops = config.frame_selection is FrameChoice.query
    assert pictures.facts is not None, "frame_inputs gives them"
    facts, index = pictures.facts.clone(), torch.full_like(pictures.token_index, UNUSED)
    is_chosen = torch.zeros(len(facts), dtype=torch.bool, device=facts.device)
    rows = []
    for row in range(len(text.input_ids)):
        members = (pictures.rows == row).nonzero()[:, 0]
        is_video = len(members) > 0 and bool((facts[members, 0] >= 0).all())
        if is_video:
            k = config.max_frames if drops else int((_pools(facts[members], config) == 1).sum())
            is_asked = bool(scored.is_asked[row])
            if drops or is_asked:
                best = members[chosen_frames(scored.scores[members].detach(), k, is_asked)]
                is_chosen[best] = True
                if not drops:
                    facts[members, 2:] = facts.new_tensor(config.frame_pools[0])
                    facts[best, 2:] = facts.new_tensor(config.frame_pools[1])
        is_kept = is_chosen[members] if is_video and drops else None
        rows.append(_new_row(text, row, facts[members] if is_video else None, is_kept, config))
        if is_video:
            index[members] = torch.from_numpy(entries(rows[-1].places, index.shape[1])).to(index.device)
        else:
            index[members] = _moved(pictures.token_index[members], rows[-1].source)
    text, changed = rebuilt_text(text, rows), (facts != pictures.facts).any(dim=1)
    stays = (index >= 0).any(dim=1)
    pictures = replace(pictures, facts=facts, token_index=index)
    if bool(changed.any()):
        finer = encode(pictures.some(changed))
        features = features.index_copy(0, changed.nonzero()[:, 0], finer)
    factors = torch.where(is_chosen, gates(scored.scores), 1.0)[:, None, None].to(features.dtype)
    return text, pictures.some(stays), (features * factors)[stays]


def most_after_choice(
    text: TextInputs, frame_facts: torch.Tensor | None, lengths: torch.Tensor, config: VideoOlmoConfig
) -> torch.Tensor:
    """`[B]` positions that are left at most once frames are left out, of `lengths` `[B]` now."""
    if frame_facts is None or config.frame_selection is not FrameChoice.query:
        return lengths
    facts = (frame_facts if frame_facts.ndim == 3 else frame_facts[None]).to(lengths.device)
    left = lengths.clone()
    for row in range(len(lengths)):
        if not bool((facts[row, :, 0] >= 0).any()):
            continue
        tokens = text.input_ids[row][_real(text, row)].cpu().numpy()
        spans = frame_spans(tokens, config.image_token_ids, _has_common_text(config))
        n_dropped = max(0, len(spans) - config.max_frames)
        left[row] -= sum(sorted(span.length for span in spans)[:n_dropped])
    return left


def _new_row(
    text: TextInputs, row: int, facts: torch.Tensor | None, is_kept: torch.Tensor | None, config: VideoOlmoConfig
) -> NewRow:
    """A row with the frames that are kept, in blocks of the size that their facts say."""
    real, ids = _real(text, row), config.image_token_ids
    tokens, old = text.input_ids[row][real].cpu().numpy(), real.nonzero()[:, 0].cpu().numpy()
    if facts is None:
        return NewRow(tokens, old, 0, 0, [])
    spans = frame_spans(tokens, ids, _has_common_text(config))
    if len(spans) != len(facts):
        raise OLMoInputError(
            f"row {row} has {len(facts)} frames, but {len(spans)} blocks of tokens; pass what the preprocessor made"
        )
    sizes: list[Size | None] = [
        (pooled_side(grid, height), pooled_side(grid, width)) for _, grid, height, width in facts.long().tolist()
    ]
    if is_kept is not None:
        sizes = [size if kept else None for size, kept in zip(sizes, is_kept.tolist(), strict=True)]
    has_cols = config.mm_preprocessor.use_col_tokens
    new, source, places = new_row(tokens, spans, sizes, has_cols, ids)
    n_before = spans[-1].end + 1
    return NewRow(new, old[source], len(new) - (len(tokens) - n_before), n_before, places)


def is_question(text: TextInputs, ids: ImageTokenIds) -> torch.Tensor:
    """`[B, L]`: real text after the last picture token that is not to be learned."""
    tokens = text.input_ids
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(tokens == ids.end, places, -1).amax(dim=1, keepdim=True)
    is_question = (places > last) & (tokens >= 0)
    if text.attention_mask is not None:
        is_question = is_question & text.attention_mask
    return is_question if text.labels is None else is_question & (text.labels == IGNORE)


def _pools(facts: torch.Tensor, config: VideoOlmoConfig) -> torch.Tensor:
    """`[frames]`: place in `config.frame_pools` of each frame's windows, the last that fits."""
    place = torch.zeros(len(facts), dtype=torch.long, device=facts.device)
    for number, pool in enumerate(config.frame_pools):
        place[(facts[:, 2:] == facts.new_tensor(pool)).all(dim=1)] = number
    return place


def _has_common_text(config: VideoOlmoConfig) -> bool:
    return config.time_mode in (TimeMode.fps_prefix, TimeMode.delta_prefix)


def _real(text: TextInputs, row: int) -> torch.Tensor:
    """`[L]` bool: tokens of a row that are no padding."""
    real = text.input_ids[row] >= 0
    return real if text.attention_mask is None else real & text.attention_mask[row]


def _moved(index: torch.Tensor, source: np.ndarray) -> torch.Tensor:
    """Positions in a row whose tokens come from the places `source` of the old one."""
    n_old = max(int(index.max()) if index.numel() else 0, int(source.max())) + 1
    place = torch.full((n_old,), UNUSED, dtype=torch.long, device=index.device)
    place[torch.from_numpy(source).to(index.device)] = torch.arange(len(source), device=index.device)
    return torch.where(index >= 0, place[index.clamp(min=0)], index)

"""Frames on their way to features: what a call may hand in, brought to one form, and the picture encoder in batches.

A crop is a frame or a part of a picture; its facts say which (`PictureInputs.facts`), and how it is pooled. Crops of
one kind are encoded together, each by itself: no crop sees another here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from olmo.exceptions import OLMoInputError
from olmo.models.picture_inputs import PictureInputs, batched_images, batched_masks, check_starts, warn_of_missing_masks
from olmo.models.text_inputs import require_tensor
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.vision_backbone import MolmoVisionBackbone
from olmo.preprocessing.image_tokens import UNUSED, block_spans, rebuild_image_input_idx, token_block
from olmo.preprocessing.video.frame_tokens import PICTURE_SECONDS
from olmo.preprocessing.video.video_spec import pooled_side

N_FACTS = 4
"""Facts of a crop: seconds, patches a side, height and width of a pooling window."""


def frame_inputs(
    input_ids: torch.Tensor,
    images: torch.Tensor,
    image_masks: torch.Tensor | None,
    image_input_idx: torch.Tensor | None,
    frame_facts: torch.Tensor | None,
    config: VideoOlmoConfig,
) -> PictureInputs:
    """Check and flatten the crops of a batch, as `picture_inputs` does.

    Args:
        input_ids: `[B, L]` int64.
        images: `[B, T, 3, H, W]` frames and crops of pictures; smaller frames lie at the top left of a larger canvas.
        image_masks: `[B, T, P]` share of real pixels a patch, or None for all real.
        image_input_idx: `[B, T, entries]` positions; `[B, blocks]` first positions; None: rebuilt from `input_ids`.
        frame_facts: `[B, T, 4]` as the preprocessor makes them; None: found out from the index. Times are not known
            then, only the order.
        config: the model.

    Raises:
        OLMoInputError: the model takes no pictures, shapes do not fit, or what is left out cannot be found out.
    """
    vision = config.vision_backbone
    if vision is None:
        raise OLMoInputError("this model has no vision backbone (vision_backbone is null); it takes text only")
    if image_masks is None and config.mm_preprocessor.legacy_image_mask:
        warn_of_missing_masks()
    batch_size, device = len(input_ids), input_ids.device
    images = batched_images(images, batch_size, vision, _side(images, config)).to(device)
    n_crops = images.shape[1]
    grid = images.shape[-1] // vision.vit.spec.patch_size if images.ndim == 5 else vision.vit.spec.grid
    index = _long_index(input_ids, image_input_idx, n_crops, grid, config)
    if frame_facts is None:
        facts = _found_facts(index, grid, config)
    else:
        facts = _checked_facts(frame_facts, (batch_size, n_crops, N_FACTS)).to(device)
    masks = batched_masks(image_masks, (batch_size, n_crops, vision.vit.spec.n_patches), device)
    rows, crops = (index >= 0).any(dim=-1).nonzero(as_tuple=True)
    return PictureInputs(
        images=images[rows, crops],
        image_masks=None if masks is None else masks[rows, crops],
        token_index=index[rows, crops],
        rows=rows,
        facts=facts[rows, crops],
        numbers=crops,
    )


def encode_crops(
    backbone: MolmoVisionBackbone, pictures: PictureInputs, batch_size: int | None, is_checkpointed: bool
) -> torch.Tensor:
    """Features `[M, entries, D]` of crops, zeros behind those that have fewer.

    Args:
        backbone: encoder and connector.
        pictures: the crops with their facts.
        batch_size: crops that are encoded at a time; None: all of a kind.
        is_checkpointed: keep no activations where a gradient is recorded.
    """
    assert pictures.facts is not None, "frame_inputs gives them"
    facts = pictures.facts.clone()
    facts[:, 0] = (facts[:, 0] >= 0).float()
    kinds, kind_of = torch.unique(facts.long(), dim=0, return_inverse=True)
    is_checkpointed = (
        is_checkpointed and torch.is_grad_enabled() and any(p.requires_grad for p in backbone.parameters())
    )
    parts, places = [], []
    for number, (is_frame, grid, *window) in enumerate(kinds.tolist()):
        members = (kind_of == number).nonzero()[:, 0]
        for chunk in members.split(batch_size or max(len(members), 1)):
            given = (*crops_of(backbone, pictures, chunk, grid), (window[0], window[1]) if is_frame else None)
            features = checkpoint(backbone, *given, use_reentrant=False) if is_checkpointed else backbone(*given)
            parts.append(F.pad(features, (0, 0, 0, pictures.token_index.shape[1] - features.shape[1])))
            places.append(chunk)
    if not parts:  # where weights are sharded every process runs the encoder, also on nothing
        features = backbone(*crops_of(backbone, pictures, kind_of, backbone.config.vit.spec.grid))
        return features.new_zeros(0, pictures.token_index.shape[1], features.shape[-1]) + features.sum()
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.cat(places).argsort()]


def crops_of(
    backbone: MolmoVisionBackbone, pictures: PictureInputs, members: torch.Tensor, grid: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pixels and masks of crops with `grid` patches a side, without what lies around smaller frames."""
    images, masks, spec = pictures.images[members], pictures.image_masks, backbone.config.vit.spec
    if images.ndim == 4:
        images = images[..., : grid * spec.patch_size, : grid * spec.patch_size]
    # The type of a parameter that is neither sharded on its own nor ever quantised.
    images = images.to(backbone.image_vit.positional_embedding.dtype)
    return images, None if masks is None else masks[members, : grid * grid]


def _side(images: object, config: VideoOlmoConfig) -> int | None:
    """Side of the crops in pixels, where they are pixels of an allowed size."""
    assert config.vision_backbone is not None, "checked by the caller"
    spec = config.vision_backbone.vit.spec
    if not isinstance(images, torch.Tensor) or images.ndim < 3 or images.shape[-3] != 3:
        return None
    side = images.shape[-1]
    return side if 0 < side <= spec.image_size and side % spec.patch_size == 0 else None


def _checked_facts(facts: torch.Tensor, wanted: tuple[int, int, int]) -> torch.Tensor:
    require_tensor("frame_facts", facts)
    batched = facts[None] if facts.ndim == 2 and wanted[0] == 1 else facts
    if tuple(batched.shape) != wanted:
        raise OLMoInputError(
            f"frame_facts of shape {tuple(facts.shape)} does not fit: wanted {list(wanted)} (seconds, patches a side, "
            "window height and width of each crop), as config.build_preprocessor(for_inference=True) makes them"
        )
    return batched.float()


def _long_index(
    input_ids: torch.Tensor, given: torch.Tensor | None, n_crops: int, grid: int, config: VideoOlmoConfig
) -> torch.Tensor:
    """`[B, T, entries]` int64 from any form of `image_input_idx`."""
    (batch_size, length), width = input_ids.shape, config.index_width
    if given is None:
        return _rebuilt_index(input_ids, None, n_crops, grid, config)
    require_tensor("image_input_idx", given)
    if given.is_floating_point():
        raise OLMoInputError(f"image_input_idx holds positions, so it must be integers, got {given.dtype}")
    index = given.to(input_ids.device).long()
    widths = {width, config.image_spec.tokens_per_crop} if config.image_spec is not None else {width}
    is_long = index.ndim == 3 or (
        batch_size == 1 and index.ndim == 2 and tuple(index.shape) in {(n_crops, w) for w in widths}
    )
    if not is_long:
        return _rebuilt_index(input_ids, index if index.ndim == 2 else index[None], n_crops, grid, config)
    index = index[None] if index.ndim == 2 else index
    if tuple(index.shape[:2]) != (batch_size, n_crops) or index.shape[2] > width:
        raise OLMoInputError(
            f"image_input_idx of shape {tuple(given.shape)} does not fit: wanted [{batch_size}, {n_crops}, {width}] (a "
            "position for each pooled feature), or [B, blocks] first positions"
        )
    if index.numel() and int(index.max()) >= length:
        raise OLMoInputError(f"image_input_idx points at position {int(index.max())} of a sequence of {length} tokens")
    return F.pad(index, (0, width - index.shape[2]), value=UNUSED)


def _rebuilt_index(
    input_ids: torch.Tensor, starts: torch.Tensor | None, n_crops: int, grid: int, config: VideoOlmoConfig
) -> torch.Tensor:
    """`[B, T, entries]` from the blocks of tokens: one frame each, or else pictures."""
    ids, spec = config.image_token_ids, config.image_spec
    assert spec is not None, "there is a vision backbone"
    index = np.full((len(input_ids), n_crops, config.index_width), UNUSED, dtype=np.int64)
    for row, tokens in enumerate(input_ids.cpu().numpy()):
        spans = block_spans(tokens, ids)
        places = _frame_places(tokens, spans, grid, config)
        if places is None:
            rebuilt = rebuild_image_input_idx(tokens, ids, spec, config.mm_preprocessor)
            places = list(rebuilt)
        elif config.temporal_stride > 1 and places:
            raise OLMoInputError(
                f"with temporal_stride={config.temporal_stride} several frames share a block of tokens, so which is "
                "not known from input_ids; pass image_input_idx and frame_facts as the preprocessor makes them"
            )
        if len(places) > n_crops:
            raise OLMoInputError(
                f"row {row} holds the tokens of {len(places)} frames or crops, but images has {n_crops}; pass the "
                "images that the preprocessor made with these input_ids"
            )
        for crop, place in enumerate(places):
            index[row, crop, : len(place)] = place
        if starts is not None:
            check_starts(row, starts[row].tolist(), [span[0] for span in spans])
    return torch.from_numpy(index).to(input_ids.device)


def _frame_places(
    tokens: np.ndarray, spans: list[tuple[int, int]], grid: int, config: VideoOlmoConfig
) -> list[np.ndarray] | None:
    """Positions of the patch tokens of each block, or None where a block is not that of a frame."""
    ids, has_cols = config.image_token_ids, config.mm_preprocessor.use_col_tokens
    blocks = [token_block(pooled_side(grid, h), pooled_side(grid, w), has_cols, ids) for h, w in config.frame_pools]
    places = []
    for start, end in spans:
        if not any(np.array_equal(tokens[start : end + 1], block) for block in blocks):
            return None
        places.append(start + np.flatnonzero(tokens[start : end + 1] == ids.patch))
    return places


def _found_facts(index: torch.Tensor, grid: int, config: VideoOlmoConfig) -> torch.Tensor:
    """`[B, T, 4]` facts from the index: rows whose crops all are as full as a frame is hold frames."""
    spec = config.image_spec
    assert spec is not None, "there is a vision backbone"
    picture = [PICTURE_SECONDS, spec.grid, spec.pool_h, spec.pool_w]
    facts = torch.tensor(picture, device=index.device).expand(*index.shape[:2], N_FACTS).clone()
    used = index >= 0
    counts = used.sum(dim=-1)  # [B, T]
    is_first_part = (used == (torch.arange(index.shape[2], device=index.device) < counts[..., None])).all(dim=-1)
    pools = {pooled_side(grid, h) * pooled_side(grid, w): (h, w) for h, w in config.frame_pools[::-1]}
    for row in range(len(index)):
        found = counts[row].tolist()
        if not bool(is_first_part[row].all()) or any(n and n not in pools for n in found):
            continue
        if config.time_embedding and any(found):
            raise OLMoInputError(
                "this model embeds the times of frames (time_embedding); pass frame_facts as the preprocessor makes "
                "them"
            )
        for crop, n in enumerate(found):
            if n:
                facts[row, crop] = facts.new_tensor([crop, grid, *pools[n]])
    return facts

"""The door for pictures: every documented form of `images`, `image_masks` and `image_input_idx`, brought to one.

The one form is `PictureInputs`: only the crops that feed a token, flattened over the batch, with the sequence position of
each of their pooled features. Padding crops never reach the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import ImageTokenIds, rebuild_image_input_idx
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig


@dataclass(frozen=True)
class PictureInputs:
    """The crops of a batch that feed at least one token; M of them."""

    images: torch.Tensor
    """Pixels `[M, 3, H, W]` or patches `[M, P, p*p*3]`, normalised float."""

    image_masks: torch.Tensor | None
    """`[M, P]` share of real pixels a patch, or None for all real."""

    token_index: torch.Tensor
    """`[M, tokens]` int64 position of each pooled feature in its row, negative where it is unused."""

    rows: torch.Tensor
    """`[M]` int64 batch row of each crop."""


def batched_images(images: torch.Tensor, batch_size: int, vision: MolmoVisionBackboneConfig) -> torch.Tensor:
    """`[B, N, 3, H, W]` or `[B, N, P, p*p*3]` from any accepted rank.

    Raises:
        OLMoInputError: the shape fits none of the forms, a pixel is NaN or infinite, or the batch size differs.
    """
    spec = vision.vit.spec
    side, patch_width = spec.image_size, spec.patch_size**2 * 3
    shape = tuple(images.shape)
    is_pixels = len(shape) >= 3 and shape[-3:] == (3, side, side)
    is_patches = len(shape) >= 2 and shape[-2:] == (spec.n_patches, patch_width)
    if not images.is_floating_point() or not (is_pixels or is_patches):
        raise OLMoInputError(
            f"images of shape {shape} and type {images.dtype} fit neither form: normalised float pixels "
            f"[B, N, 3, {side}, {side}] or patches [B, N, {spec.n_patches}, {patch_width}]; "
            "config.build_preprocessor(for_inference=True) makes them"
        )
    rank = len(shape) - (2 if is_patches else 3)
    if rank == 1:  # one example without a batch dimension, or one crop for each example
        images = images[None] if batch_size == 1 else images[:, None]
    if rank not in (1, 2) or images.shape[0] != batch_size:
        raise OLMoInputError(f"images of shape {shape} do not fit a batch of {batch_size}; the first size is the batch")
    if not torch.isfinite(images).all():
        raise OLMoInputError("images hold NaN or infinite values; normalise finite pixels before calling the model")
    return images


def picture_inputs(
    input_ids: torch.Tensor,
    images: torch.Tensor,
    image_masks: torch.Tensor | None,
    image_input_idx: torch.Tensor | None,
    *,
    vision: MolmoVisionBackboneConfig,
    image_spec: ImageSpec,
    preprocessing: MolmoPreprocessorConfig,
    token_ids: ImageTokenIds,
) -> PictureInputs:
    """Check and flatten the pictures of a batch.

    Args:
        input_ids: `[B, L]` int64.
        images: as `batched_images` accepts.
        image_masks: `[B, N, P]` (or unbatched `[N, P]`) or None.
        image_input_idx: `[B, N, tokens]` positions; `[B, I]` first positions of each picture's run; or None.
        vision: configuration of the backbone.
        image_spec: sizes of a crop, for rebuilding positions.
        preprocessing: crop layout, for rebuilding positions.
        token_ids: ids of the picture tokens, for rebuilding positions.

    Raises:
        OLMoInputError: shapes do not fit, or positions lie outside the sequence.
    """
    batch_size, length = input_ids.shape
    images = batched_images(images, batch_size, vision)
    n_crops, n_tokens = images.shape[1], vision.tokens_per_side[0] * vision.tokens_per_side[1]
    if image_input_idx is not None and image_input_idx.ndim == 2 and image_input_idx.shape == (n_crops, n_tokens):
        image_input_idx = image_input_idx[None] if batch_size == 1 else image_input_idx
    if image_input_idx is not None and image_input_idx.ndim == 1:
        image_input_idx = image_input_idx[None]
    if image_input_idx is None or image_input_idx.ndim == 2:
        index = _rebuilt_index(input_ids, image_input_idx, n_crops, n_tokens, image_spec, preprocessing, token_ids)
    else:
        index = image_input_idx.long()
    if tuple(index.shape) != (batch_size, n_crops, n_tokens):
        raise OLMoInputError(
            f"image_input_idx of shape {tuple(index.shape)} does not fit: wanted [{batch_size}, {n_crops}, {n_tokens}] "
            "(a position for each pooled feature), or [B, pictures] first positions"
        )
    if int(index.max()) >= length:
        raise OLMoInputError(f"image_input_idx points at position {int(index.max())} of a sequence of {length} tokens")
    masks = None
    if image_masks is not None:
        masks = image_masks[None] if image_masks.ndim == 2 and batch_size == 1 else image_masks
        if tuple(masks.shape) != (batch_size, n_crops, vision.vit.spec.n_patches):
            raise OLMoInputError(
                f"image_masks of shape {tuple(image_masks.shape)} does not fit: wanted "
                f"[{batch_size}, {n_crops}, {vision.vit.spec.n_patches}]"
            )
    rows, crops = (index >= 0).any(dim=-1).nonzero(as_tuple=True)
    return PictureInputs(
        images=images[rows, crops],
        image_masks=None if masks is None else masks[rows, crops],
        token_index=index[rows, crops],
        rows=rows,
    )


def _rebuilt_index(
    input_ids: torch.Tensor,
    starts: torch.Tensor | None,
    n_crops: int,
    n_tokens: int,
    image_spec: ImageSpec,
    preprocessing: MolmoPreprocessorConfig,
    token_ids: ImageTokenIds,
) -> torch.Tensor:
    """`[B, N, tokens]` from the layout of start, patch, column and end tokens; `starts` is checked against it."""
    index = np.full((len(input_ids), n_crops, n_tokens), -1, dtype=np.int64)
    for row, ids in enumerate(input_ids.cpu().numpy()):
        rebuilt = rebuild_image_input_idx(ids, token_ids, image_spec, preprocessing)
        if len(rebuilt) > n_crops:
            raise OLMoInputError(
                f"row {row} holds the tokens of {len(rebuilt)} crops, but images has {n_crops}; "
                "pass the images that the preprocessor made with these input_ids"
            )
        index[row, : len(rebuilt)] = rebuilt
        if starts is not None:
            _check_starts(row, ids, starts[row].cpu().numpy(), token_ids)
    return torch.from_numpy(index).to(input_ids.device)


def _check_starts(row: int, ids: np.ndarray, starts: np.ndarray, token_ids: ImageTokenIds) -> None:
    for position in starts[starts >= 0]:
        if position >= len(ids) or ids[position] not in (token_ids.start, token_ids.patch):
            raise OLMoInputError(
                f"image_input_idx of row {row} names position {position}, where no picture's tokens begin; "
                "leave it out to have it rebuilt from input_ids"
            )


def fuse(embeds: torch.Tensor, features: torch.Tensor, pictures: PictureInputs) -> torch.Tensor:
    """Add picture features to the embeddings of their tokens.

    Args:
        embeds: `[B, L, D]` token embeddings.
        features: `[M, tokens, D]` of the crops in `pictures`.
        pictures: where each feature belongs.

    Returns:
        `[B, L, D]`; features at negative positions are dropped.
    """
    used = pictures.token_index >= 0
    rows = pictures.rows[:, None].expand_as(used)[used]
    return embeds.index_put((rows, pictures.token_index[used]), features[used].to(embeds.dtype), accumulate=True)


def image_groups(input_ids: torch.Tensor, token_ids: ImageTokenIds) -> torch.Tensor:
    """`[B, L]` int64: 0 on text, k on the tokens of the k-th run between a start token and its end token."""
    is_start = input_ids == token_ids.start
    is_picture = is_start | (input_ids == token_ids.end) | (input_ids == token_ids.patch) | (input_ids == token_ids.col)
    return is_start.long().cumsum(dim=1) * is_picture

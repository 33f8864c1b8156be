"""The door for pictures: every documented form of `images`, `image_masks` and `image_input_idx`, brought to one.

The one form is `PictureInputs`: only the crops that feed a token, flattened over the batch, with the sequence position
of each of their pooled features. Padding crops never reach the encoder.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.text_inputs import TextInputs, require_tensor
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.image_tokens import UNUSED, picture_starts, rebuild_image_input_idx

GivenPictures = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""`images`, `image_masks` and `image_input_idx` as a caller gave them."""


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

    facts: torch.Tensor | None = None
    """`[M, 4]` float32 where crops may be frames: seconds (negative for pictures), patches a side, window h and w."""

    numbers: torch.Tensor | None = None
    """`[M]` int64 number of each crop among those that its row was given."""

    def some(self, is_in: torch.Tensor) -> PictureInputs:
        """The crops where `is_in`, bool `[M]`, is True."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        some: dict[str, Any] = {name: None if value is None else value[is_in] for name, value in given.items()}
        return PictureInputs(**some)


@dataclass(frozen=True)
class Seen:
    """A batch after its pictures were encoded: what goes on to the language model."""

    text: TextInputs
    """The tokens; shorter than they came in where picture tokens were left out."""

    pictures: PictureInputs | None = None
    """The crops that are left, with the places of their features among these tokens."""

    features: torch.Tensor | None = None
    """`[M, tokens, D]` of them."""

    aux: dict[str, torch.Tensor] = field(default_factory=dict)
    """What the choice has to tell, for `OLMoOutput.aux`; names that begin with `loss_` are added to the loss."""


def batched_images(
    images: torch.Tensor, batch_size: int, vision: MolmoVisionBackboneConfig, side: int | None = None
) -> torch.Tensor:
    """`[B, N, 3, H, W]` or `[B, N, P, p*p*3]` from any accepted rank.

    Args:
        images: as the caller gave them.
        batch_size: B.
        vision: encoder; its crop and patch sizes are what is accepted.
        side: of crops in pixels; None: that of the encoder.

    Raises:
        OLMoInputError: the shape fits none of the forms, a pixel is NaN or infinite, or the batch size differs.
    """
    require_tensor("images", images)
    spec = vision.vit.spec
    side, patch_width = side or spec.image_size, spec.patch_size**2 * 3
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
    config: MolmoConfig,
) -> PictureInputs:
    """Check and flatten the pictures of a batch; everything goes to the device of `input_ids`.

    Args:
        input_ids: `[B, L]` int64.
        images: as `batched_images` accepts.
        image_masks: `[B, N, P]` (or unbatched `[N, P]`) or None.
        image_input_idx: `[B, N, tokens]` positions; `[B, I]` first positions of each picture's run; or None.
        config: the model; its vision backbone and picture layout are read.

    Raises:
        OLMoInputError: the model takes no pictures, shapes do not fit, or positions lie outside the sequence.
    """
    vision = config.vision_backbone
    if vision is None:
        raise OLMoInputError("this model has no vision backbone (vision_backbone is null); it takes text only")
    if image_masks is None and config.mm_preprocessor.legacy_image_mask:
        warn_of_missing_masks()
    batch_size, device = len(input_ids), input_ids.device
    images = batched_images(images, batch_size, vision).to(device)
    index = _long_index(input_ids, image_input_idx, images.shape[1], config)
    masks = batched_masks(image_masks, (batch_size, images.shape[1], vision.vit.spec.n_patches), device)
    rows, crops = (index >= 0).any(dim=-1).nonzero(as_tuple=True)
    return PictureInputs(
        images=images[rows, crops],
        image_masks=None if masks is None else masks[rows, crops],
        token_index=index[rows, crops],
        rows=rows,
        numbers=crops,
    )


def batched_masks(
    image_masks: torch.Tensor | None, wanted: tuple[int, int, int], device: torch.device
) -> torch.Tensor | None:
    """`[B, N, P]` on `device` from any accepted form, or None.

    Raises:
        OLMoInputError: another shape.
    """
    if image_masks is None:
        return None
    require_tensor("image_masks", image_masks)
    masks = image_masks[None] if image_masks.ndim == 2 and wanted[0] == 1 else image_masks
    if tuple(masks.shape) != wanted:
        raise OLMoInputError(f"image_masks of shape {tuple(image_masks.shape)} does not fit: wanted {list(wanted)}")
    return masks.to(device)


def _long_index(
    input_ids: torch.Tensor, image_input_idx: torch.Tensor | None, n_crops: int, config: MolmoConfig
) -> torch.Tensor:
    """`[B, N, tokens]` int64 from any form of `image_input_idx`."""
    assert config.vision_backbone is not None, "checked by the caller"
    (batch_size, length), (high, wide) = input_ids.shape, config.vision_backbone.tokens_per_side
    wanted = (batch_size, n_crops, high * wide)
    index = image_input_idx
    if index is not None:
        require_tensor("image_input_idx", index)
        if index.is_floating_point():
            raise OLMoInputError(f"image_input_idx holds positions, so it must be integers, got {index.dtype}")
        index = index.to(input_ids.device).long()
        if index.ndim == 1 or (batch_size == 1 and tuple(index.shape) == wanted[1:]):
            index = index[None]
    if index is None or (index.ndim == 2 and len(index) == batch_size):
        return _rebuilt_index(input_ids, index, wanted, config)
    if tuple(index.shape) != wanted:
        raise OLMoInputError(
            f"image_input_idx of shape {tuple(index.shape)} does not fit: wanted {list(wanted)} (a position for each "
            "pooled feature), or [B, pictures] first positions"
        )
    if int(index.max()) >= length:
        raise OLMoInputError(f"image_input_idx points at position {int(index.max())} of a sequence of {length} tokens")
    return index


def _rebuilt_index(
    input_ids: torch.Tensor, starts: torch.Tensor | None, shape: tuple[int, int, int], config: MolmoConfig
) -> torch.Tensor:
    """`[B, N, tokens]` from the layout of start, patch, column and end tokens; `starts` is checked against it."""
    spec, layout, ids = config.image_spec, config.mm_preprocessor, config.image_token_ids
    assert spec is not None, "there is a vision backbone"
    index = np.full(shape, UNUSED, dtype=np.int64)
    for row, tokens in enumerate(input_ids.cpu().numpy()):
        rebuilt = rebuild_image_input_idx(tokens, ids, spec, layout)
        if len(rebuilt) > shape[1]:
            raise OLMoInputError(
                f"row {row} holds the tokens of {len(rebuilt)} crops, but images has {shape[1]}; "
                "pass the images that the preprocessor made with these input_ids"
            )
        index[row, : len(rebuilt)] = rebuilt
        if starts is not None:
            check_starts(row, starts[row].tolist(), picture_starts(tokens, ids, spec, layout).tolist())
    return torch.from_numpy(index).to(input_ids.device)


def check_starts(row: int, named: list[int], found: list[int]) -> None:
    """The first positions that a caller names must be those of the pictures; a start or its first patch will do."""
    named = [position for position in named if position >= 0]
    if len(named) != len(found) or any(n not in (f, f + 1) for n, f in zip(named, found, strict=True)):
        raise OLMoInputError(
            f"image_input_idx of row {row} says that pictures begin at {named}, but in input_ids they begin at "
            f"{found}; leave it out to have it rebuilt from input_ids"
        )


@functools.cache
def warn_of_missing_masks() -> None:
    """Warn once in a process: the words stay true, and a loop over pictures should not repeat them."""
    warnings.warn(
        "image_masks was not given: with weights of the first release results differ a little from the released ones; "
        "call model(**inputs) with everything the preprocessor returns",
        stacklevel=6,
    )

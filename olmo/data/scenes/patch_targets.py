"""What each patch of a scene shows: targets for a picture encoder trained with exact truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from olmo.data.scenes.scene import Scene, percent_to_px
from olmo.data.scenes.signs import LETTERS, WORDS
from olmo.exceptions import OLMoInputError

IGNORE = -100
COVERED = 0.25
AMBIGUOUS = 0.10


@dataclass(frozen=True)
class PatchTargets:
    """Targets per patch, row by row from the top left.

    Attributes:
        kind: int64 [G * G]; 0 background, 1 + concept index, -100 where in doubt.
        x_bin: int64 [G * G], column bin of the point that answers for the covering object; -100 where `kind` is not a
            concept.
        y_bin: int64 [G * G], row bin, as `x_bin`.
        is_centre: float32 [G * G], 1 on the patches that hold an answered point.
        word: int64 [G * G]; 0 where there is no sign, 1 + index in `WORDS` on the sign's plate, -100 on its rim.
        letter: int64 [G * G]; 1 + index in `LETTERS` of the letter that fills most of the patch, -100 where none does.
    """

    kind: np.ndarray
    x_bin: np.ndarray
    y_bin: np.ndarray
    is_centre: np.ndarray
    word: np.ndarray
    letter: np.ndarray


@lru_cache(maxsize=32)
def _patch_of_pixel(side: int, grid: int) -> np.ndarray:
    """Patch number of each pixel, int64 [side * side]."""
    band = np.arange(side) * grid // side
    return (band[:, None] * grid + band[None, :]).reshape(-1)


def patch_targets(scene: Scene, grid: int = 12, n_bins: int = 50) -> PatchTargets:
    """Targets of `scene` on a `grid` x `grid` raster of patches.

    Args:
        scene: the picture and its truth.
        grid: patches a side.
        n_bins: bins a side; bin b is the point at b * 100 / `n_bins` percent, so it must be 100 / the point step.

    Raises:
        OLMoInputError: `n_bins` does not fit the grid of the scene's points.
    """
    if abs(n_bins * scene.point_step_percent - 100) > 1e-6:
        raise OLMoInputError(
            f"n_bins={n_bins} does not fit point_step_percent={scene.point_step_percent}; "
            f"use n_bins={round(100 / scene.point_step_percent)}"
        )
    side = scene.object_map.shape[0]
    n, patches = len(scene.objects), grid * grid
    patch = _patch_of_pixel(side, grid)
    pixels = np.bincount(patch * (n + 1) + scene.object_map.reshape(-1), minlength=patches * (n + 1))
    pixels = pixels.reshape(patches, n + 1)  # [G * G, 1 + objects]
    area = pixels.sum(1)
    names, kind_of = np.unique([o.concept.index for o in scene.objects], return_inverse=True)
    member = kind_of[:, None] == np.arange(len(names))  # [objects, kinds]
    by_kind = pixels[:, 1:] @ member.astype(np.int64)  # [G * G, kinds]
    best = by_kind.argmax(1)
    share = by_kind.max(1) / area
    covered = share >= COVERED
    kind = np.where(covered, names[best] + 1, np.where(share >= AMBIGUOUS, IGNORE, 0)).astype(np.int64)

    # Among the objects of the winning kind, the one with most pixels in the patch answers for it.
    owner = np.where(member.T[best], pixels[:, 1:], -1).argmax(1)
    bins = np.array([[round(v / scene.point_step_percent) for v in o.point] for o in scene.objects], dtype=np.int64)
    x_bin = np.where(covered, bins[owner, 0], IGNORE)
    y_bin = np.where(covered, bins[owner, 1], IGNORE)

    is_centre = np.zeros(patches, dtype=np.float32)
    for o in scene.objects:
        column, row = (percent_to_px(v, side) * grid // side for v in o.point)
        is_centre[row * grid + column] = 1.0
    word, letter = _word_targets(scene, patch, grid), _letter_targets(scene, grid)
    return PatchTargets(kind=kind, x_bin=x_bin, y_bin=y_bin, is_centre=is_centre, word=word, letter=letter)


def _word_targets(scene: Scene, patch: np.ndarray, grid: int) -> np.ndarray:
    """`PatchTargets.word` of a scene; `patch` is the patch number of each pixel."""
    if scene.word is None or scene.word_box is None:
        return np.zeros(grid * grid, dtype=np.int64)
    left, top, right, bottom = (round(v) for v in scene.word_box)
    plate = np.zeros(scene.object_map.shape, dtype=bool)
    plate[top:bottom, left:right] = True
    share = np.bincount(patch, weights=plate.reshape(-1), minlength=grid * grid) / np.bincount(patch)
    number = 1 + WORDS.index(scene.word)
    return np.where(share >= COVERED, number, np.where(share >= AMBIGUOUS, IGNORE, 0)).astype(np.int64)


def _letter_targets(scene: Scene, grid: int) -> np.ndarray:
    """`PatchTargets.letter` of a scene."""
    if scene.word is None:
        return np.full(grid * grid, IGNORE, dtype=np.int64)
    cell = scene.object_map.shape[0] / grid
    edges = np.arange(grid) * cell
    boxes = np.array(scene.letter_boxes)  # [letters, 4]

    def overlap(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        shared = np.minimum(high[:, None], edges + cell) - np.maximum(low[:, None], edges)
        return shared.clip(min=0) / cell  # [letters, G], share of the patch's side

    share = overlap(boxes[:, 1], boxes[:, 3])[:, :, None] * overlap(boxes[:, 0], boxes[:, 2])[:, None, :]
    numbers = np.array([1 + LETTERS.index(letter) for letter in scene.word])
    share = share.reshape(len(boxes), grid * grid)
    return np.where(share.max(0) >= COVERED, numbers[share.argmax(0)], IGNORE).astype(np.int64)

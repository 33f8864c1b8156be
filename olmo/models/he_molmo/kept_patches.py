"""From what a HeMolmo tells of its selection to pictures that show it.

Joins `aux` of an output with the inputs it was made of. Where tokens lie on a picture is known to `viz.token_places`,
drawing to `viz.selection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.models.he_molmo.he_molmo_config import Granularity, HeMolmoConfig
from olmo.models.he_molmo.token_selector import kept_counts, n_kept
from olmo.preprocessing.image_tokens import image_token_layout
from olmo.preprocessing.multicrop import tiling_of
from olmo.preprocessing.video.video_spec import pooled_side
from olmo.viz.selection import TokensOnPicture, draw_kept, kept_sheet
from olmo.viz.token_places import CropView, frame_view, picture_views, token_boxes

Aux = Mapping[str, torch.Tensor]


class KeptCount(NamedTuple):
    """How many of an example's picture tokens reach the language model."""

    n_kept: int
    n_tokens: int


def count_kept(aux: Aux | None, inputs: Mapping[str, Any], config: HeMolmoConfig, row: int = 0) -> KeptCount:
    """Count what was kept.

    Args:
        aux: of the output; None where there was no picture.
        inputs: the unbatched example, as the preprocessor of the model returned it.
        config: the model.
        row: of the example in the batch.
    """
    n_tokens = int((inputs["input_ids"] == config.image_token_ids.patch).sum())
    mask = None if aux is None else aux.get("selection_mask")
    return KeptCount(0 if mask is None else int(mask[row].sum()), n_tokens)


def kept_of_size(width: int, height: int, config: HeMolmoConfig) -> KeptCount:
    """Count what stays of one picture of `width` x `height` pixels; with `encode=selected_crops` it is at most that."""
    assert config.image_spec is not None, "there is a picture encoder"
    tiling = tiling_of(height, width, config.image_spec, config.mm_preprocessor)
    _, index = image_token_layout(tiling, config.image_spec, config.mm_preprocessor, config.image_token_ids)
    sizes, scorer = torch.from_numpy((index >= 0).sum(axis=1)), config.token_scorer  # [N]
    n_tokens = int(sizes.sum())
    if scorer.granularity is Granularity.per_crop:
        return KeptCount(int(kept_counts(sizes, config.selection_ratio, scorer.min_per_crop).sum()), n_tokens)
    return KeptCount(n_kept(n_tokens, config.selection_ratio, scorer.min_keep), n_tokens)


def kept_patches(
    aux: Aux | None, inputs: Mapping[str, Any], config: HeMolmoConfig, row: int = 0
) -> list[TokensOnPicture]:
    """The tokens of each picture of an example, or of each frame of its videos, where they lie on it.

    Args:
        aux: of the output.
        inputs: the unbatched example, as the preprocessor of the model returned it with `include_image=True`.
        config: the model.
        row: of the example in the batch.

    Raises:
        OLMoInputError: there is no picture. Crops and frames that were left out before have no tokens.
    """
    sizes = [(int(picture.shape[1]), int(picture.shape[0])) for picture in _pictures(inputs)]
    return kept_on_sizes(aux, inputs, sizes, config, row)


def kept_on_sizes(
    aux: Aux | None,
    inputs: Mapping[str, Any],
    sizes: Sequence[tuple[int, int]],
    config: HeMolmoConfig,
    row: int = 0,
) -> list[TokensOnPicture]:
    """What `kept_patches` tells, of pictures or frames of which only the sizes are known.

    Args:
        aux: as in `kept_patches`, like `config` and `row`.
        inputs: the unbatched example, as the preprocessor of the model returned it.
        sizes: width and height of each picture or frame, in pixels.
        config: see there.
        row: see there.

    Raises:
        OLMoInputError: there is no picture.
    """
    if aux is None or "selection_mask" not in aux or not sizes:
        raise OLMoInputError("nothing was chosen: the example shows no picture")
    scores = _array(aux["selection_scores"][row])
    is_real = np.isfinite(scores)
    crops, places = (_array(aux[name][row])[is_real] for name in ("selection_crops", "selection_places"))
    is_kept, scores = _array(aux["selection_mask"][row])[is_real], scores[is_real]
    shown, first = [], 0
    for views in _views(inputs, sizes, places, crops, config):
        parts = [crops == first + number for number in range(len(views))]
        boxes = [token_boxes(view, places[part]) for view, part in zip(views, parts, strict=True)]
        order = np.concatenate([part.nonzero()[0] for part in parts])
        is_fine = [np.full(int(part.sum()), view.is_fine) for view, part in zip(views, parts, strict=True)]
        shown.append(TokensOnPicture(np.concatenate(boxes), is_kept[order], scores[order], np.concatenate(is_fine)))
        first += len(views)
    return shown


def draw_selection(
    aux: Aux | None,
    inputs: Mapping[str, Any],
    config: HeMolmoConfig,
    row: int = 0,
    *,
    names: tuple[str, ...] = (),
    shaded: bool = False,
) -> Image.Image:
    """A single picture with its kept tokens, or a sheet of several pictures or of frames.

    Args:
        aux: as in `kept_patches`, like the next three.
        inputs: see there.
        config: see there.
        row: see there.
        names: paths of pictures or videos; written below them where there are several.
        shaded: see `draw_kept`.

    Raises:
        OLMoInputError: see there.
    """
    pictures, tokens = _pictures(inputs), kept_patches(aux, inputs, config, row)
    clips = inputs["metadata"].get("frame_seconds")
    if len(pictures) == 1 and clips is None:
        return draw_kept(pictures[0], tokens[0], shaded=shaded)
    n_items = len(pictures if clips is None else clips)
    texts = [Path(name).name for name in names] if len(names) == n_items > 1 else [""] * n_items
    if clips is not None:
        texts = [f"{s:.2f} s   {name}".strip() for clip, name in zip(clips, texts, strict=True) for s in clip]
    return kept_sheet(pictures, tokens, texts, shaded=shaded)


def _pictures(inputs: Mapping[str, Any]) -> list[np.ndarray]:
    """Decoded pictures or frames, uint8 `[H, W, 3]` each; none where the example shows none."""
    if "images" not in inputs:
        return []
    if "images" not in inputs["metadata"]:
        raise OLMoInputError("the inputs hold no decoded pictures; build the preprocessor with include_image=True")
    return list(inputs["metadata"]["images"])


def _views(
    inputs: Mapping[str, Any],
    sizes: Sequence[tuple[int, int]],
    places: np.ndarray,
    crops: np.ndarray,
    config: HeMolmoConfig,
) -> list[list[CropView]]:
    """The crops of each picture or frame."""
    spec, facts = config.image_spec, _array(inputs["frame_facts"])
    assert spec is not None, "there are pictures"
    if (facts[:, 0] < 0).all():
        return [picture_views(size, spec, config.mm_preprocessor) for size in sizes]
    views = []
    for number, (size, (_, grid, high, wide)) in enumerate(zip(sizes, facts.tolist(), strict=True)):
        pool = _pool(places[crops == number], int(grid), (int(high), int(wide)), config)
        views.append([frame_view(size, int(grid), pool, spec)])
    return views


def _pool(places: np.ndarray, grid: int, told: tuple[int, int], config: HeMolmoConfig) -> tuple[int, int]:
    """Window of a frame's tokens: as the preprocessor told it, or as the question changed it (`query_resolution`)."""
    if not len(places):
        return told  # the frame was left out
    n_windows = tuple((0.5 / places.min(axis=0)).round().astype(int).tolist())  # the first token's middle is 0.5 / n
    fits = [p for p in (told, *config.frame_pools) if (pooled_side(grid, p[0]), pooled_side(grid, p[1])) == n_windows]
    assert fits, f"no window makes {n_windows} tokens of {grid} patches a side"
    return fits[0]


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()

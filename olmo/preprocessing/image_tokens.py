"""The tokens of a picture, and which token takes which pooled feature.

Lives here: the block of start, patch, column and end tokens for a tiling, the index of every pooled feature in it, and
the way back from a finished sequence to these indices. Knows nothing of pixels or text. Source: `molmo` technical
notes of the released models, 7.5, 7.7 and 7.10.

A picture is one block (crop mode `resize`) or two: the global crop, then the kept tokens of all high-resolution crops
merged into one grid. A block is a start token, rows of patch tokens each closed by a column token, and an end token.

Odd grids (SigLIP has 27 patches a side): each crop is pooled on its own with its grid padded up to whole windows (14
tokens), and the windows of first, inner and last crops are rounded up likewise, so that the patches next to a seam may
be seen by the tokens of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.multicrop import tile_grids
from olmo.preprocessing.preprocessor_config import CropMode, MolmoPreprocessorConfig

UNUSED = -100
"""Index of a pooled feature that no token takes."""


@dataclass(frozen=True)
class ImageTokenIds:
    """Ids of the tokens that make up a picture."""

    start: int
    end: int
    patch: int
    col: int


def image_token_layout(
    tiling: tuple[int, int], spec: ImageSpec, config: MolmoPreprocessorConfig, ids: ImageTokenIds
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one picture and the place of each pooled feature among them.

    Args:
        tiling: rows and columns of high-resolution crops; (0, 0) for the global crop alone.
        spec: patches and pooling of a crop.
        config: margins, column tokens.
        ids: token ids.

    Returns:
        token_ids int64 `[T]`, and image_input_idx int64 `[N, tokens]` counted from the first of these tokens, negative
        (-100) where the feature is dropped.
    """
    blocks = [token_block(spec.tokens_h, spec.tokens_w, config.use_col_tokens, ids)]
    index = [grid_positions(spec.tokens_h, spec.tokens_w, config.use_col_tokens)[None]]
    if tiling != (0, 0):
        rows, columns = tile_grids(spec, config)
        size = rows.n_tokens(tiling[0]), columns.n_tokens(tiling[1])
        tiles = _tile_positions(tiling, spec, config)
        index.append(np.where(tiles >= 0, tiles + len(blocks[0]), UNUSED))
        blocks.append(token_block(*size, config.use_col_tokens, ids))
    return np.concatenate(blocks), np.concatenate(index).reshape(-1, spec.tokens_per_crop)


def count_image_tokens(tiling: tuple[int, int], spec: ImageSpec, config: MolmoPreprocessorConfig) -> int:
    """Tokens of one picture with this tiling, without making them."""
    extra = int(config.use_col_tokens)
    count = 2 + spec.tokens_h * (spec.tokens_w + extra)
    if tiling != (0, 0):
        rows, columns = tile_grids(spec, config)
        count += 2 + rows.n_tokens(tiling[0]) * (columns.n_tokens(tiling[1]) + extra)
    return count


def rebuild_image_input_idx(
    input_ids: np.ndarray, ids: ImageTokenIds, spec: ImageSpec, config: MolmoPreprocessorConfig
) -> np.ndarray:
    """The long form of `image_input_idx` from a finished sequence, for callers that did not keep it.

    Args:
        input_ids: one unbatched sequence `[L]`, any text and padding around any number of pictures.
        ids: token ids.
        spec: patches and pooling of a crop.
        config: crop mode, margins, column tokens.

    Returns:
        int64 `[N, tokens]`, the crops of all pictures in order, absolute positions, negative where unused.

    Raises:
        OLMoInputError: the tokens of a picture are cut or malformed, or, with column tokens off, their layout could
            come from more than one tiling.
    """
    parts = [np.zeros((0, spec.tokens_per_crop), dtype=np.int64)]
    for start, tiling in _pictures(np.asarray(input_ids), ids, spec, config):
        _, index = image_token_layout(tiling, spec, config, ids)
        parts.append(np.where(index >= 0, index + start, UNUSED))
    return np.concatenate(parts)


def picture_starts(
    input_ids: np.ndarray, ids: ImageTokenIds, spec: ImageSpec, config: MolmoPreprocessorConfig
) -> np.ndarray:
    """The short form of `image_input_idx`: position of the first token of each picture, int64 `[I]`.

    Raises:
        OLMoInputError: as for `rebuild_image_input_idx`.
    """
    return np.array([s for s, _ in _pictures(np.asarray(input_ids), ids, spec, config)], dtype=np.int64)


def token_block(n_rows: int, n_columns: int, has_col_tokens: bool, ids: ImageTokenIds) -> np.ndarray:
    """Start token, rows of patch tokens each closed by a column token, end token; int64 `[T]`."""
    row = [ids.patch] * n_columns + [ids.col] * has_col_tokens
    return np.array([ids.start, *row * n_rows, ids.end], dtype=np.int64)


def grid_positions(n_rows: int, n_columns: int, has_col_tokens: bool) -> np.ndarray:
    """Position in its block of every patch token of a grid, int64 `[rows, columns]`."""
    return 1 + np.arange(n_rows)[:, None] * (n_columns + has_col_tokens) + np.arange(n_columns)


def _tile_positions(tiling: tuple[int, int], spec: ImageSpec, config: MolmoPreprocessorConfig) -> np.ndarray:
    """Position in the merged block of every pooled token of every tile, `[tiles, tokens_h, tokens_w]`, else -100."""
    rows, columns = tile_grids(spec, config)
    merged = grid_positions(rows.n_tokens(tiling[0]), columns.n_tokens(tiling[1]), config.use_col_tokens)
    index = np.full((tiling[0] * tiling[1], spec.tokens_h, spec.tokens_w), UNUSED, dtype=np.int64)
    for k in range(len(index)):
        a, b = divmod(k, tiling[1])
        y, x = rows.kept(a, tiling[0]), columns.kept(b, tiling[1])
        top, left = rows.step * a, columns.step * b
        index[k, y, x] = merged[top + y.start : top + y.stop, left + x.start : left + x.stop]
    return index


def _pictures(
    input_ids: np.ndarray, ids: ImageTokenIds, spec: ImageSpec, config: MolmoPreprocessorConfig
) -> list[tuple[int, tuple[int, int]]]:
    """First position and tiling of every picture in a sequence."""
    spans = block_spans(input_ids, ids)
    if config.crop_mode is CropMode.resize:
        for start, end in spans:
            _check_global(input_ids, start, end, ids, spec, config)
        return [(start, (0, 0)) for start, _ in spans]
    if spans and not config.use_col_tokens:
        raise OLMoInputError(
            "image_input_idx cannot be rebuilt from input_ids without column tokens (use_col_tokens=False): several "
            "tilings have the same number of tokens. Pass image_input_idx in its long form, [B, N, tokens], as the "
            "preprocessor makes it"
        )
    if len(spans) % 2:
        raise OLMoInputError(
            f"input_ids hold {len(spans)} blocks of picture tokens; crop mode {config.crop_mode.value!r} has two for "
            "each picture (global crop, then high-resolution crops). A picture was cut, or is of another crop mode"
        )
    found = []
    for first, second in zip(spans[::2], spans[1::2], strict=True):
        _check_global(input_ids, *first, ids, spec, config)
        if second[0] != first[1] + 1:
            raise OLMoInputError(
                f"the two blocks of a picture must follow one another, but one ends at position {first[1]} and the "
                f"next starts at {second[0]}"
            )
        found.append((first[0], _tiling_of_block(input_ids, *second, ids, spec, config)))
    return found


def block_spans(input_ids: np.ndarray, ids: ImageTokenIds) -> list[tuple[int, int]]:
    """First and last position of every block, from start to end token."""
    if input_ids.ndim != 1:
        raise OLMoInputError(f"input_ids must be one sequence [L] here, got shape {list(input_ids.shape)}")
    starts, ends = np.flatnonzero(input_ids == ids.start), np.flatnonzero(input_ids == ids.end)
    edges = np.flatnonzero((input_ids == ids.start) | (input_ids == ids.end))
    if len(starts) != len(ends) or not np.array_equal(edges, np.stack([starts, ends], axis=1).reshape(-1)):
        raise OLMoInputError(
            f"picture tokens are malformed: start tokens (id {ids.start}) at {_few(starts)} and end tokens (id "
            f"{ids.end}) at {_few(ends)} do not pair up; a picture was cut, perhaps by truncation"
        )
    inner = np.flatnonzero((input_ids == ids.patch) | (input_ids == ids.col))
    spans = [(int(s), int(e)) for s, e in zip(starts, ends, strict=True)]
    expected = np.concatenate([np.zeros(0, np.int64), *(np.arange(s + 1, e) for s, e in spans)])
    if not np.array_equal(inner, expected):
        odd = np.setxor1d(inner, expected)
        raise OLMoInputError(
            f"picture tokens are malformed at {_few(odd)}: patch and column tokens must fill the space between a start "
            "and an end token, and stand nowhere else"
        )
    return spans


def _check_global(
    input_ids: np.ndarray, start: int, end: int, ids: ImageTokenIds, spec: ImageSpec, config: MolmoPreprocessorConfig
) -> None:
    wanted = token_block(spec.tokens_h, spec.tokens_w, config.use_col_tokens, ids)
    if not np.array_equal(input_ids[start : end + 1], wanted):
        columns = "with" if config.use_col_tokens else "without"
        raise OLMoInputError(
            f"picture tokens from {start} to {end} are not those of a global crop: wanted {spec.tokens_h} rows of "
            f"{spec.tokens_w} patch tokens {columns} column tokens, {len(wanted)} in all, got {end + 1 - start}"
        )


def _tiling_of_block(
    input_ids: np.ndarray, start: int, end: int, ids: ImageTokenIds, spec: ImageSpec, config: MolmoPreprocessorConfig
) -> tuple[int, int]:
    """Tiling of a merged block, from its rows and columns."""
    block = input_ids[start : end + 1]
    n_rows = int(np.count_nonzero(block == ids.col))
    n_columns = (len(block) - 2) // n_rows - 1 if n_rows else 0
    rows, columns = tile_grids(spec, config)
    tiling = rows.n_tiles(n_rows), columns.n_tiles(n_columns)
    is_whole = n_columns > 0 and np.array_equal(block, token_block(n_rows, n_columns, True, ids))
    if not is_whole or tiling[0] is None or tiling[1] is None:
        raise OLMoInputError(
            f"picture tokens from {start} to {end} fit no tiling: {n_rows} rows of {n_columns} patch tokens; for this "
            f"model rows come as {rows.n_tokens(1)}, {rows.n_tokens(2)}, {rows.n_tokens(3)}, ... and columns as "
            f"{columns.n_tokens(1)}, {columns.n_tokens(2)}, {columns.n_tokens(3)}, ..."
        )
    return tiling[0], tiling[1]


def _few(positions: np.ndarray) -> str:
    shown = ", ".join(str(p) for p in positions[:5])
    return f"positions {shown}, ... ({len(positions)} in all)" if len(positions) > 5 else f"positions {shown or 'none'}"

"""Other looks for a drawn thing: shifted colours, flat fills, dark outlines. Its shape then has to tell what it is.

A model that only ever sees two styles of art learns their colours and shading; a third style then looks strange to it.
"""

from __future__ import annotations

import numpy as np

from olmo.data.scenes.art import Sprite

_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_OUTLINE_SHARE = 0.7
_FLAT_SHARE = 0.5
_EDGE_CONTRAST = 36.0
"""Steps between neighbouring pixels, of 255, that count as an inner line of the drawing."""


def restyled(rng: np.random.Generator, drawn: Sprite) -> Sprite:
    """The same thing, drawn another way; silhouette and mask stay.

    Colours are mixed between channels and made paler or stronger. Half of the results have flat fills of a few levels,
    seven of ten have dark lines around the thing and along its inner edges.
    """
    colour = _recoloured(rng, drawn.colour.astype(np.float32))
    alpha = (255 - drawn.rest).astype(np.float32)
    grey = drawn.colour @ _GREY_WEIGHTS
    if rng.random() < _FLAT_SHARE:
        step = float(rng.uniform(40, 90))
        colour = np.round(colour / step) * step
    if rng.random() < _OUTLINE_SHARE:
        lines = _outer_line(drawn.mask, max(1, round(min(drawn.mask.shape) / 24))) | _inner_lines(grey, drawn.mask)
        colour[lines] = float(rng.uniform(0, 50))
        alpha[lines] = 255.0
    colour = np.minimum(np.clip(colour, 0, 255), alpha)  # colours are multiplied by alpha already
    return Sprite(colour=colour.astype(np.uint8), rest=(255 - alpha).astype(np.uint8), mask=drawn.mask)


def _recoloured(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Channels mixed with one another, then saturation and contrast changed; float32 `[h, w, 3]`."""
    mix = np.eye(3, dtype=np.float32) + rng.normal(0, 0.14, (3, 3)).astype(np.float32)
    mixed = colour @ mix.T
    grey = (mixed @ _GREY_WEIGHTS)[..., None]
    return np.asarray((grey + (mixed - grey) * rng.uniform(0.3, 1.5)) * rng.uniform(0.75, 1.2), dtype=np.float32)


def _outer_line(mask: np.ndarray, width: int) -> np.ndarray:
    """The outermost `width` pixels of a silhouette."""
    inside = np.pad(mask, width)
    h, w = mask.shape
    core = mask.copy()
    for shift in range(1, width + 1):
        for dy, dx in ((shift, 0), (-shift, 0), (0, shift), (0, -shift)):
            core &= inside[width + dy : width + dy + h, width + dx : width + dx + w]
    return mask & ~core


def _inner_lines(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels where the drawing steps from light to dark."""
    down = np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    right = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    return (np.maximum(down, right) > _EDGE_CONTRAST) & mask

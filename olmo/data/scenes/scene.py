"""Scenes: pictures of known things at known places, drawn from a seed.

The same seed and configuration give the same picture bit for bit. Knows nothing of questions or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from olmo.data.scenes.art import ANGLE_STEP_DEG, Concept, ConceptSet, Sprite, concepts, sprite
from olmo.data.scenes.backgrounds import KINDS, Background, draw_clutter, make_background, photo_background
from olmo.data.scenes.restyle import restyled
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.data.scenes.signs import WORDS, draw_sign, letter_boxes, word_mask

SCENE_SALT = 11
_KIND_SHARES = (0.35, 0.30, 0.25, 0.10)
_PLACE_TRIES = 40
# Boxes are compared after shrinking by this share a side: sprites are rounder than their boxes.
_BOX_SLACK = 0.04
_MAX_ANGLE_STEPS = 35 // ANGLE_STEP_DEG

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    Attributes:
        concept: what it is.
        box: x0, y0, x1, y1 in px, x1 and y1 exclusive.
        centre: the visible pixel (x, y) nearest to the centre of mass of the visible mask.
        point: answered point (x, y), percent of width and height, on the grid of `point_step_percent`, on the mask.
        size: longer side before turning, px.
        angle: degrees, counter-clockwise, -35 to 35.
        mirrored: flipped left to right before turning.
        style: style of its art.
    """

    concept: Concept
    box: Box
    centre: tuple[int, int]
    point: tuple[float, float]
    size: int
    angle: int
    mirrored: bool
    style: str


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known of it.

    Attributes:
        seed: what it was drawn from.
        image: RGB picture.
        objects: the things in it.
        object_map: uint8 [H, W]; 0 is background, k is `objects[k - 1]` (holes of silhouettes are filled).
        background: kind of background.
        word: the word on the sign, lower case, or None.
        word_box: box of the sign's plate in px, or None.
        letter_boxes: box in px of each letter of the word, in order; none without a sign.
        point_step_percent: grid of the answered points.
        concept_set: the concepts that could have been drawn.
    """

    seed: int
    image: Image.Image
    objects: tuple[SceneObject, ...]
    object_map: np.ndarray
    background: Background
    word: str | None
    word_box: Box | None
    letter_boxes: tuple[tuple[float, float, float, float], ...]
    point_step_percent: float
    concept_set: ConceptSet

    def of(self, name: str) -> list[SceneObject]:
        """Objects of the concept called `name`, in drawing order."""
        return [o for o in self.objects if o.concept.name == name]

    def counts(self) -> dict[str, int]:
        """Number of objects per concept name, names in alphabetical order."""
        names = [o.concept.name for o in self.objects]
        return {name: names.count(name) for name in sorted(set(names))}


def make_scene(seed: int, config: ScenesConfig | None = None) -> Scene:
    """Draw the scene of `seed`."""
    config = config or ScenesConfig()
    rng = np.random.default_rng([seed, SCENE_SALT])
    side = int(rng.choice(config.image_sizes)) if config.image_sizes else config.image_size
    background: Background = KINDS[int(rng.integers(len(KINDS)))]
    if config.photo_share and rng.random() < config.photo_share:
        background = Background.photo
        canvas = photo_background(rng, side)
    else:
        canvas = make_background(rng, side, background)
    canvas = draw_clutter(rng, canvas, int(rng.integers(config.clutter + 1)))

    kinds = _draw_kinds(rng, config)
    word, word_size = None, (0, 0)
    if rng.random() < config.word_share:
        word = WORDS[int(rng.integers(len(WORDS)))]
        font_px = round(side * rng.uniform(0.11, 0.15))
        letters = word_mask(word, font_px)
        word_size = (letters.shape[1], letters.shape[0])
    sprites, boxes, word_box = _lay_out(rng, config, side, kinds, word_size)
    on_plate: tuple[tuple[float, float, float, float], ...] = ()
    if word_box is not None and word is not None:
        left, top = word_box[:2]
        draw_sign(rng, canvas, letters, left, top)
        on_plate = tuple((left + a, top + b, left + c, top + d) for a, b, c, d in letter_boxes(word, font_px))
    if config.restyle_share:
        changed = rng.random(len(sprites)) < config.restyle_share
        sprites = [p._replace(drawn=restyled(rng, p.drawn)) if c else p for p, c in zip(sprites, changed, strict=True)]
    object_map = np.zeros((side, side), dtype=np.uint8)
    gains = rng.uniform(0.85, 1.1, len(boxes))
    for k, (placed, box) in enumerate(zip(sprites, boxes, strict=True), start=1):
        _blend(canvas, object_map, placed.drawn, box, k, gains[k - 1])
    objects = []
    for k, (placed, box) in enumerate(zip(sprites, boxes, strict=True), start=1):
        centre, point = _centre_and_point(object_map, k, box, config.point_step_percent)
        concept = concepts()[placed.concept]
        objects.append(
            SceneObject(concept, box, centre, point, placed.size, placed.angle, placed.mirrored, placed.style)
        )
    return Scene(
        seed=seed,
        image=Image.fromarray(canvas),
        objects=tuple(objects),
        object_map=object_map,
        background=background,
        word=word if word_box is not None else None,
        word_box=word_box,
        letter_boxes=on_plate,
        point_step_percent=config.point_step_percent,
        concept_set=config.concept_set,
    )


def _draw_kinds(rng: np.random.Generator, config: ScenesConfig) -> list[int]:
    """Concept index of every object."""
    shares = np.array(_KIND_SHARES[: config.max_kinds])
    n_kinds = 1 + int(rng.choice(len(shares), p=shares / shares.sum()))
    candidates = concepts(config.concept_set)
    chosen = [candidates[i].index for i in rng.permutation(len(candidates))[:n_kinds]]
    kinds: list[int] = []
    for i, concept in enumerate(chosen):
        most = min(config.max_count, config.max_objects - len(kinds) - (n_kinds - 1 - i))
        # Several kinds of one object each are what questions of position need, so 1 comes up more often there.
        single = n_kinds > 1 and rng.random() < 0.4
        kinds += [concept] * (1 if single else int(rng.integers(1, most + 1)))
    return kinds


class _Placed(NamedTuple):
    """An object before it has a place: concept index, longer side in px, degrees, mirrored, style, its sprite."""

    concept: int
    size: int
    angle: int
    mirrored: bool
    style: str
    drawn: Sprite


def _lay_out(
    rng: np.random.Generator, config: ScenesConfig, side: int, kinds: list[int], word_size: tuple[int, int]
) -> tuple[list[_Placed], list[Box], Box | None]:
    """Choose sizes, turns and places; sizes shrink until everything fits."""
    n = len(kinds)
    top = max(config.min_object_share, min(config.max_object_share, 0.78 / math.sqrt(n + 1 + (word_size[0] > 0))))
    shares = rng.uniform(config.min_object_share, top, n)
    angles = (rng.integers(-_MAX_ANGLE_STEPS, _MAX_ANGLE_STEPS + 1, n) * ANGLE_STEP_DEG).tolist()
    mirrored = (rng.random(n) < 0.5).tolist()
    # One style draws nothing, so that scenes of one style stay what they were before there were several.
    styles = [config.art[i] for i in rng.integers(len(config.art), size=n)] if len(config.art) > 1 else config.art * n
    # Sizes on a grid of 1/84 of the side keep the cache of scaled sprites small.
    unit = max(1, side // 84)
    while True:
        sizes = [max(unit, round(s * side / unit) * unit) for s in shares]
        chosen = list(zip(kinds, sizes, angles, mirrored, styles, strict=True))
        sprites = [_Placed(*choice, sprite(*choice)) for choice in chosen]
        shapes = [(placed.drawn.mask.shape[1], placed.drawn.mask.shape[0]) for placed in sprites]
        word_box = None
        if word_size[0]:
            word_box = _place(rng, side, word_size, [])
        boxes = [] if word_box is None else [word_box]
        for w, h in shapes:
            box = _place(rng, side, (w, h), boxes)
            if box is None:
                break
            boxes.append(box)
        else:
            return sprites, boxes if word_box is None else boxes[1:], word_box
        shares = np.maximum(shares * 0.92, 0.6 * config.min_object_share)


def _place(rng: np.random.Generator, side: int, shape: tuple[int, int], taken: list[Box]) -> Box | None:
    """A free box of this width and height, or None when `_PLACE_TRIES` random places all hit something."""
    w, h = shape
    tries = 1 if not taken else _PLACE_TRIES
    xs = rng.integers(0, side - w + 1, tries)
    ys = rng.integers(0, side - h + 1, tries)
    if not taken:
        return int(xs[0]), int(ys[0]), int(xs[0]) + w, int(ys[0]) + h
    others = np.array(taken)  # [K, 4]
    slack = (_BOX_SLACK * np.minimum(w, others[:, 2] - others[:, 0])).astype(np.int64)  # [K]
    apart = (
        (xs[:, None] + w - slack <= others[:, 0])
        | (xs[:, None] >= others[:, 2] - slack)
        | (ys[:, None] + h - slack <= others[:, 1])
        | (ys[:, None] >= others[:, 3] - slack)
    ).all(1)  # [tries]
    first = int(apart.argmax())
    if not apart[first]:
        return None
    x, y = int(xs[first]), int(ys[first])
    return x, y, x + w, y + h


def _blend(canvas: np.ndarray, object_map: np.ndarray, drawn: Sprite, box: Box, k: int, gain: float) -> None:
    """Draw one object over `canvas` and enter it into `object_map`, in place."""
    x0, y0, x1, y1 = box
    below = canvas[y0:y1, x0:x1].astype(np.uint16) * drawn.rest // 255
    # Gain in 1/256 steps keeps everything in integers: 255 * 282 fits in uint32, and the sum is clipped at 255.
    bright = (drawn.colour.astype(np.uint32) * int(gain * 256)) >> 8
    canvas[y0:y1, x0:x1] = np.minimum(below + bright, 255).astype(np.uint8)
    object_map[y0:y1, x0:x1][drawn.mask] = k


def _centre_and_point(
    object_map: np.ndarray, k: int, box: Box, step: float
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Visible pixel nearest to the centre of mass, and the answered point in percent."""
    x0, y0, x1, y1 = box
    ys, xs = np.nonzero(object_map[y0:y1, x0:x1] == k)
    assert len(xs), f"object {k} is hidden"
    nearest = int(((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2).argmin())
    cx, cy = int(xs[nearest]) + x0, int(ys[nearest]) + y0
    side = object_map.shape[0]
    last = round(100 / step) - 1
    gx, gy = (min(last, round((c + 0.5) / side * 100 / step)) for c in (cx, cy))
    if object_map[percent_to_px(gy * step, side), percent_to_px(gx * step, side)] != k:
        gx, gy = _nearest_grid_point(object_map, k, (cx, cy), step)
    return (cx, cy), (round(gx * step, 1), round(gy * step, 1))


def _nearest_grid_point(object_map: np.ndarray, k: int, centre: tuple[int, int], step: float) -> tuple[int, int]:
    """Grid point (in steps) on object `k` nearest to `centre`."""
    side = object_map.shape[0]
    grid = np.arange(round(100 / step))
    px = np.minimum((grid * step / 100 * side + 1e-6).astype(np.int64), side - 1)
    gy, gx = np.nonzero(object_map[px][:, px] == k)
    assert len(gx), f"no grid point on object {k}"
    best = int(((px[gx] - centre[0]) ** 2 + (px[gy] - centre[1]) ** 2).argmin())
    return int(gx[best]), int(gy[best])


def percent_to_px(percent: float, side: int) -> int:
    """Pixel index that a coordinate in percent falls on; 0 to `side` - 1."""
    return max(0, min(side - 1, int(percent / 100 * side + 1e-6)))

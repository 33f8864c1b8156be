"""Moving scenes: clips in which known things do known things, drawn from a seed.

Each event is that of one thing, and events follow one another without overlap, so what comes first has one answer. The
camera may move a little, things may stand by, and several things of one kind may come and go. The same seed and
configuration give the same clip bit for bit. Knows nothing of questions or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import numpy as np

from olmo.data.scenes.art import ANGLE_STEP_DEG, Concept, Sprite, concepts, sprite
from olmo.data.scenes.backgrounds import KINDS, draw_clutter, make_background, photo_background
from olmo.data.scenes.moving.actors import DIRECTIONS, GROWTH, MOMENTARY, Action, Actor, visible_colours
from olmo.data.scenes.moving.moving_config import MovingScenesConfig

MOVING_SALT = 31
MOST_PAN = 0.125
"""Most that the camera moves, as a share of the side."""

_SHORTEST_WAY, _LONGEST_WAY = 0.38, 0.6  # of the side; a pan can neither hide a move nor look like one
_GROUP_SIZES = (2, 5)
_PLACE_TRIES = 60
_LEAST_SHRINKING = 0.6  # below this nothing could be recognised
_QUIET = 0.06  # share of the clip before the first and after the last event
_MAX_ANGLE_STEPS = 15 // ANGLE_STEP_DEG

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MovingScene:
    """A clip and all that is known of it.

    Attributes:
        seed: what it was drawn from.
        seconds: float64 `[T]`, times of the frames.
        actors: the things whose events follow one another, in that order.
        still: things of other kinds that only stand there.
        group: things of one kind more, some of which come or go at any time; may be empty.
        pan: columns and rows that the picture has moved by the last frame, px.
        world: uint8 `[W, W, 3]`, the background, larger than a frame by `margin` on each side.
        margin: px.
    """

    seed: int
    seconds: np.ndarray
    actors: tuple[Actor, ...]
    still: tuple[Actor, ...]
    group: tuple[Actor, ...]
    pan: tuple[float, float]
    world: np.ndarray
    margin: int

    @property
    def n_frames(self) -> int:
        """T."""
        return len(self.seconds)

    @property
    def side(self) -> int:
        """Side of a frame, px."""
        return self.world.shape[0] - 2 * self.margin

    @property
    def things(self) -> tuple[Actor, ...]:
        """Everything in the clip, what is drawn first first."""
        return (*self.still, *self.group, *self.actors)

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 `[T, side, side, 3]`."""
        return np.stack([self.frame(i) for i in range(self.n_frames)])

    def frame(self, index: int) -> np.ndarray:
        """One frame, uint8 `[side, side, 3]`."""
        share = index / (self.n_frames - 1)
        # The camera goes one way, the picture the other; the world is drawn larger by the margin.
        left, top = (self.margin - round(share * p) for p in self.pan)
        canvas = self.world[top : top + self.side, left : left + self.side].copy()
        for actor in self.things:
            if actor.is_visible(index):
                _blend(canvas, actor.drawn(index), *self._corner(actor, index))
        return canvas

    def silhouette(self, actor: Actor, frame: int) -> tuple[np.ndarray, int, int]:
        """Where a thing is in a frame: its mask, bool `[h, w]`, and the column and row of the mask's top left, px."""
        return actor.drawn(frame).mask, *self._corner(actor, frame)

    def _corner(self, actor: Actor, frame: int) -> tuple[int, int]:
        (x, y), share = actor.middle(frame), frame / (self.n_frames - 1)
        height, width = actor.drawn(frame).mask.shape
        return round(x + share * self.pan[0] - width / 2), round(y + share * self.pan[1] - height / 2)

    def count(self, name: str, frame: int) -> int:
        """Things of a kind that are there at a frame."""
        return sum(a.concept.name == name and a.is_visible(frame) for a in self.things)


def make_moving_scene(seed: int, config: MovingScenesConfig | None = None) -> MovingScene:
    """Draw the clip of `seed`."""
    config = config or MovingScenesConfig()
    rng = np.random.default_rng([seed, MOVING_SALT])
    side, n_frames = config.image_size, int(rng.integers(config.min_frames, config.max_frames + 1))
    seconds = np.arange(n_frames) / float(rng.choice(config.rates))
    pan = (0.0, 0.0)
    if rng.random() < config.pan_share:
        pan = tuple((rng.uniform(-MOST_PAN, MOST_PAN, 2) * side).tolist())
    margin = math.ceil(MOST_PAN * side) + 1
    whole = side + 2 * margin
    if config.photo_share and rng.random() < config.photo_share:
        world = photo_background(rng, whole)
    else:
        world = make_background(rng, whole, KINDS[int(rng.integers(len(KINDS)))])
    world = draw_clutter(rng, world, int(rng.integers(config.clutter + 1)))
    things = _lay_out(rng, config, _draw_cast(rng, config, n_frames), pan)
    actors, still, group = (tuple(a for role, a in things if role is wanted) for wanted in _Role)
    return MovingScene(seed, seconds, actors, still, group, pan, world, margin)


class _Role(Enum):
    """Part that a thing has in a clip."""

    actor = "actor"
    still = "still"
    group = "group"


_Cast = list[tuple[_Role, Actor]]


def _draw_cast(rng: np.random.Generator, config: MovingScenesConfig, n_frames: int) -> _Cast:
    """Everything that takes part, without places; those that can be done without come last."""
    # Events need two frames each, or their order could not be seen.
    n_events = 1 + int(rng.integers(min(config.max_events, (n_frames - 2) // 2)))
    n_still = int(rng.integers(config.max_still + 1))
    has_group = rng.random() < config.group_share
    candidates = concepts(config.concept_set)
    chosen = [candidates[i] for i in rng.permutation(len(candidates))[: n_events + n_still + has_group]]
    acting = [_actor(rng, config, concept) for concept in chosen[:n_events]]
    cast = [(_Role.actor, _timed(rng, actor, i, n_events, n_frames)) for i, actor in enumerate(acting)]
    if has_group:
        for _ in range(int(rng.integers(*_GROUP_SIZES))):
            thing = _thing(rng, config, chosen[-1])
            action = (Action.still, Action.appear, Action.vanish)[int(rng.integers(3))]
            moment = float(rng.uniform(1, n_frames - 2))
            cast.append((_Role.group, replace(thing, action=action, begin=moment, end=moment)))
    still = [_thing(rng, config, concept) for concept in chosen[n_events : n_events + n_still]]
    return cast + [(_Role.still, thing) for thing in still]


def _thing(rng: np.random.Generator, config: MovingScenesConfig, concept: Concept) -> Actor:
    """A thing that stands still, without a place."""
    size = rng.uniform(config.min_object_share, config.max_object_share) * config.image_size
    return Actor(
        concept=concept,
        style=config.art[int(rng.integers(len(config.art)))],
        size=round(size),
        angle=int(rng.integers(-_MAX_ANGLE_STEPS, _MAX_ANGLE_STEPS + 1)) * ANGLE_STEP_DEG,
        mirrored=bool(rng.random() < 0.5),
        centre=(0.0, 0.0),
        action=Action.still,
    )


def _actor(rng: np.random.Generator, config: MovingScenesConfig, concept: Concept) -> Actor:
    """A thing that does something, without a time or a place."""
    thing = _thing(rng, config, concept)
    plain = sprite(concept.index, thing.size, thing.angle, thing.mirrored, thing.style)
    # Moves make up half of all actions, the other kinds share the rest.
    kinds = [list(DIRECTIONS)] * 3 + [[Action.appear], [Action.vanish], [Action.grow, Action.shrink]]
    kinds.append(visible_colours(plain))
    kind = kinds[int(rng.integers(len(kinds)))]
    action = kind[int(rng.integers(len(kind)))]
    shift = (0.0, 0.0)
    if action in DIRECTIONS:
        way = rng.uniform(_SHORTEST_WAY, _LONGEST_WAY) * config.image_size
        shift = (DIRECTIONS[action][0] * way, DIRECTIONS[action][1] * way)
    smallest = config.min_object_share * config.image_size
    if action is Action.grow:  # begins small, so that it is no giant in the end
        thing = replace(thing, size=round(smallest * rng.uniform(0.8, 1.0)))
    elif action is Action.shrink:
        thing = replace(thing, size=round(smallest * GROWTH * rng.uniform(0.8, 1.0)))
    return replace(thing, action=action, shift=shift)


def _timed(rng: np.random.Generator, actor: Actor, slot: int, n_slots: int, n_frames: int) -> Actor:
    """The actor with its time in slot number `slot` of the clip."""
    first, last = _QUIET * (n_frames - 1), (1 - _QUIET) * (n_frames - 1)
    length = (last - first) / n_slots
    start = first + slot * length
    if actor.action in MOMENTARY:
        moment = float(start + rng.uniform(0.3, 0.7) * length)
        return replace(actor, begin=moment, end=moment)
    begin, end = start + rng.uniform(0.05, 0.2) * length, start + rng.uniform(0.8, 0.95) * length
    return replace(actor, begin=float(begin), end=float(end))


def _lay_out(rng: np.random.Generator, config: MovingScenesConfig, cast: _Cast, pan: tuple[float, float]) -> _Cast:
    """Give everything a place where its whole way is free and in view; sizes shrink until it fits.

    What does not fit even so is left out, bystanders first, the last event in the end.
    """
    factor = 1.0
    while True:
        placed = _all_placed(rng, config.image_size, [_resized(actor, factor) for _, actor in cast], pan)
        if placed is not None:
            return [(role, actor) for (role, _), actor in zip(cast, placed, strict=True)]
        factor *= 0.9
        if factor < _LEAST_SHRINKING:
            assert len(cast) > 1, "a single thing always fits"
            cast, factor = cast[:-1], 1.0


def _resized(actor: Actor, factor: float) -> Actor:
    return replace(actor, size=max(8, round(actor.size * factor)))


def _all_placed(
    rng: np.random.Generator, side: int, actors: list[Actor], pan: tuple[float, float]
) -> list[Actor] | None:
    """The actors with places, or None where one of them finds none."""
    placed: dict[int, Actor] = {}
    taken: list[Box] = []
    # Long ways are hard to place, so they come first.
    for i in sorted(range(len(actors)), key=lambda i: -max(map(abs, actors[i].shift))):
        found = _place(rng, side, actors[i], taken, pan)
        if found is None:
            return None
        placed[i] = found[0]
        taken.append(found[1])
    return [placed[i] for i in range(len(actors))]


def _room(actor: Actor, side: int, pan: tuple[float, float]) -> tuple[Box, float, float]:
    """Where the middle may be so that thing and way stay in view through the pan, and half its width and height."""
    largest = actor.size * (GROWTH if actor.action is Action.grow else 1.0)
    plain = sprite(actor.concept.index, max(4, round(largest)), actor.angle, actor.mirrored, actor.style)
    half_w, half_h = plain.mask.shape[1] / 2, plain.mask.shape[0] / 2
    (dx, dy), (px, py) = actor.shift, pan
    low_x, high_x = half_w - min(0.0, dx) - min(0.0, px), side - half_w - max(0.0, dx) - max(0.0, px)
    low_y, high_y = half_h - min(0.0, dy) - min(0.0, py), side - half_h - max(0.0, dy) - max(0.0, py)
    return (low_x, low_y, max(low_x, high_x), max(low_y, high_y)), half_w, half_h


def _place(
    rng: np.random.Generator, side: int, actor: Actor, taken: list[Box], pan: tuple[float, float]
) -> tuple[Actor, Box] | None:
    """The actor at a free place with the box that its way sweeps, or None when many random places all hit something."""
    (low_x, low_y, high_x, high_y), half_w, half_h = _room(actor, side, pan)
    dx, dy = actor.shift
    for x, y in zip(rng.uniform(low_x, high_x, _PLACE_TRIES), rng.uniform(low_y, high_y, _PLACE_TRIES), strict=True):
        box = (
            x + min(0.0, dx) - half_w, y + min(0.0, dy) - half_h, x + max(0.0, dx) + half_w, y + max(0.0, dy) + half_h
        )  # fmt: skip
        if all(box[2] <= t[0] or box[0] >= t[2] or box[3] <= t[1] or box[1] >= t[3] for t in taken):
            return replace(actor, centre=(float(x), float(y))), box
    return None


def _blend(canvas: np.ndarray, drawn: Sprite, left: int, top: int) -> None:
    """Draw a thing with its top left at (left, top) over `canvas`, in place; what lies outside is cut off."""
    height, width = drawn.mask.shape
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(canvas.shape[1], left + width), min(canvas.shape[0], top + height)
    if x0 >= x1 or y0 >= y1:
        return
    part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    below = canvas[y0:y1, x0:x1].astype(np.uint16) * drawn.rest[part] // 255
    canvas[y0:y1, x0:x1] = np.minimum(below + drawn.colour[part], 255).astype(np.uint8)

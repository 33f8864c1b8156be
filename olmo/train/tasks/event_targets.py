"""What becomes of the things of a moving scene: exact targets for the picture tokens that show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from olmo.data.scenes.moving.actors import PHRASES, Action, Actor
from olmo.data.scenes.moving.frame_targets import frame_targets
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.preprocessing.video.video_spec import pooled_side

UNKNOWN = -100
"""Where a token shows nothing, or nothing can be said of it."""

N_BINS = 8
"""Parts a side that places are told apart by."""


@dataclass(frozen=True)
class Facet:
    """One thing to know about what a token shows."""

    name: str
    n_classes: int
    is_place: bool = False
    """Whether it is a place at the beginning or the end, from which the rest follows."""

    words: tuple[str, ...] = ()
    """The word of each class in answers; none where answers say it in no one word."""

    is_name: bool = False
    """Whether the class is the first token of a name."""


ACTION = Facet("action", len(Action), words=tuple(PHRASES[action].split()[-1] for action in Action))
ORDER = Facet("order", 4)
HALF = Facet("half", 2, words=("first", "second"))

FACETS = (
    *(Facet(name, N_BINS + 1, is_place=True) for name in ("first_x", "first_y", "last_x", "last_y")),
    ACTION,
    ORDER,
    HALF,
)
"""Places have a class more, the last, for a thing that is not there."""


def event_targets(scene: MovingScene) -> np.ndarray:
    """Classes int64 `[things + 1, facets]`; the last row is for tokens that show nothing, whose thing is number -1."""
    return np.array([_of_thing(scene, thing) for thing in scene.things] + [[UNKNOWN] * len(FACETS)])


def shown_things(scene: MovingScene, facts: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """`frame_targets` for each frame of `facts` `[T, 4]` (seconds, patches a side, window), on its raster of tokens."""
    shown = []
    for seconds, grid, height, width in facts.tolist():
        assert height == width, "frames of molmo-nano are pooled in squares"
        frame = int(np.abs(scene.seconds - seconds).argmin())
        shown.append(frame_targets(scene, frame, pooled_side(int(grid), int(height))))
    return shown


def _of_thing(scene: MovingScene, thing: Actor) -> list[int]:
    places = [bin_ for frame in (0, scene.n_frames - 1) for bin_ in _place(scene, thing, frame)]
    action = list(Action).index(thing.action)
    if thing not in scene.actors:
        return [*places, action, UNKNOWN, UNKNOWN]
    half = half_of(scene, thing)
    return [*places, action, scene.actors.index(thing), UNKNOWN if half is None else half]


def _place(scene: MovingScene, thing: Actor, frame: int) -> list[int]:
    """Parts of the width and the height that its middle lies in at a frame."""
    if not thing.is_visible(frame):
        return [N_BINS, N_BINS]
    mask, left, top = scene.silhouette(thing, frame)
    middle = (left + mask.shape[1] / 2, top + mask.shape[0] / 2)
    return [min(max(0, int(m * N_BINS / scene.side)), N_BINS - 1) for m in middle]

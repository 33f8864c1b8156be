"""What becomes of the things of a moving scene: exact targets for the picture tokens that show them."""

from __future__ import annotations

import numpy as np
import torch

from olmo.data.scenes.moving.actors import Action, Actor
from olmo.data.scenes.moving.frame_targets import frame_targets
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.preprocessing.video.video_spec import pooled_side
from olmo.train.tasks.inside.facets import N_BINS, SHOWN, UNKNOWN


def event_targets(scene: MovingScene) -> np.ndarray:
    """Classes int64 `[things + 1, facets]`; the last row is for tokens that show nothing, whose thing is number -1."""
    return np.array([_of_thing(scene, thing) for thing in scene.things] + [[UNKNOWN] * len(SHOWN)])


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

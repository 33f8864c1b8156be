from __future__ import annotations

import pickle

import numpy as np
import pytest

from olmo.data.scenes.moving.actors import COLOURS, DIRECTIONS, GROWTH, MOMENTARY, Action, tinted, visible_colours
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.moving.moving_scene import MOST_PAN, MovingScene, make_moving_scene
from olmo.exceptions import OLMoConfigurationError


@pytest.fixture(scope="module")
def clips() -> list[MovingScene]:
    return [make_moving_scene(seed) for seed in range(120)]


def test_a_seed_is_a_clip() -> None:
    one, two, other = make_moving_scene(4), make_moving_scene(4), make_moving_scene(5)
    assert one.actors == two.actors and (one.frames == two.frames).all() and (one.seconds == two.seconds).all()
    assert one.frames.shape != other.frames.shape or (one.frames != other.frames).any()
    copy = pickle.loads(pickle.dumps(one))
    assert (copy.frames == one.frames).all()


def test_frames_and_times(clips: list[MovingScene]) -> None:
    for clip in clips:
        assert clip.frames.shape == (clip.n_frames, 112, 112, 3) and clip.frames.dtype == np.uint8
        assert 8 <= clip.n_frames <= 12 and clip.seconds[0] == 0 and (np.diff(clip.seconds) > 0).all()


def test_events_follow_one_another(clips: list[MovingScene]) -> None:
    for clip in clips:
        last = clip.n_frames - 1
        assert 1 <= len(clip.actors) <= 3
        for before, after in zip(clip.actors, clip.actors[1:], strict=False):
            assert before.end < after.begin
        for actor in clip.actors:
            assert 0 < actor.begin <= actor.end < last
            assert (actor.begin == actor.end) == (actor.action in MOMENTARY)
            assert actor.progress(0) == 0.0 and actor.progress(last) == 1.0


def test_kinds_differ_except_in_the_group(clips: list[MovingScene]) -> None:
    for clip in clips:
        names = [a.concept.name for a in (*clip.actors, *clip.still)]
        group = {a.concept.name for a in clip.group}
        assert len(set(names)) == len(names) and len(group) <= 1 and not group & set(names)


def test_a_change_shows_in_the_frames(clips: list[MovingScene]) -> None:
    """Between the frames before and after an event the picture changes; where nothing happens, it does not."""
    for clip in clips:
        if clip.pan != (0.0, 0.0):
            continue
        quiet = [not any(a.progress(i) != a.progress(i + 1) for a in clip.things) for i in range(clip.n_frames - 1)]
        for i, is_quiet in enumerate(quiet):
            assert not is_quiet or (clip.frames[i] == clip.frames[i + 1]).all()
        for actor in clip.actors:
            before, after = int(actor.begin), int(np.ceil(actor.end + 1e-9))
            assert (clip.frames[before] != clip.frames[after]).any()


def test_ways_stay_in_view_and_apart(clips: list[MovingScene]) -> None:
    for clip in clips:
        for frame in (0, clip.n_frames - 1):
            share = frame / (clip.n_frames - 1)
            boxes = []
            for actor in clip.things:
                if not actor.is_visible(frame):
                    continue
                height, width = actor.drawn(frame).mask.shape
                x, y = (c + share * p for c, p in zip(actor.middle(frame), clip.pan, strict=True))
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                assert box[0] > -1.5 and box[1] > -1.5 and box[2] < clip.side + 1.5 and box[3] < clip.side + 1.5
                boxes.append(box)
            for k, a in enumerate(boxes):
                for b in boxes[k + 1 :]:
                    assert a[2] <= b[0] + 2 or b[2] <= a[0] + 2 or a[3] <= b[1] + 2 or b[3] <= a[1] + 2


def test_moves_are_longer_than_any_pan(clips: list[MovingScene]) -> None:
    moves = [a for clip in clips for a in clip.actors if a.action in DIRECTIONS]
    assert len(moves) > 20
    for actor in moves:
        dx, dy = DIRECTIONS[actor.action]
        along = actor.shift[0] * dx + actor.shift[1] * dy
        assert along >= 2.5 * MOST_PAN * 112 and abs(actor.shift[0] * dy) + abs(actor.shift[1] * dx) == 0
    assert any(clip.pan != (0.0, 0.0) for clip in clips)
    assert all(abs(p) <= MOST_PAN * 112 for clip in clips for p in clip.pan)


def test_every_action_comes_up(clips: list[MovingScene]) -> None:
    assert {a.action for clip in clips for a in clip.things} == set(Action)


def test_sizes_and_colours_change(clips: list[MovingScene]) -> None:
    for clip in clips:
        for actor in clip.actors:
            first, last = actor.size_at(0), actor.size_at(clip.n_frames - 1)
            factor = {Action.grow: GROWTH, Action.shrink: 1 / GROWTH}.get(actor.action, 1.0)
            assert last == pytest.approx(first * factor, abs=1)
            if actor.action in COLOURS:
                drawn = actor.drawn(clip.n_frames - 1)
                mean = drawn.colour[drawn.mask].mean(axis=0)
                assert list(COLOURS)[int(mean.argmax())] is actor.action
                assert actor.action in visible_colours(actor.drawn(0))


def test_a_tint_keeps_the_shape(clips: list[MovingScene]) -> None:
    plain = clips[0].actors[0].drawn(0)
    red = tinted(plain, COLOURS[Action.red])
    assert (red.rest == plain.rest).all() and (red.mask == plain.mask).all()
    assert (red.colour.astype(int) + red.rest <= 256).all(), "still premultiplied"


def test_counts_over_time(clips: list[MovingScene]) -> None:
    for clip in clips:
        for name in {a.concept.name for a in clip.group}:
            came = sum(a.action is Action.appear for a in clip.group)
            went = sum(a.action is Action.vanish for a in clip.group)
            assert clip.count(name, 0) == len(clip.group) - came
            assert clip.count(name, clip.n_frames - 1) == len(clip.group) - went


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"min_frames": 4}, "min_frames"),
        ({"max_frames": 5}, "max_frames"),
        ({"rates": []}, "rates"),
        ({"rates": [0.0]}, "rates"),
        ({"art": []}, "art"),
        ({"task_weights": {"dancing": 1.0}}, "dancing"),
        ({"task_weights": {"order": 0.0}}, "task_weights"),
        ({"max_object_share": 0.05}, "max_object_share"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], field: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=field):
        MovingScenesConfig(**changes)

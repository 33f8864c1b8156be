from __future__ import annotations

import numpy as np
import pytest

from olmo.data.scenes import Scene, ScenesConfig, concepts, make_scene, patch_targets
from olmo.data.scenes.scene import percent_to_px
from olmo.data.scenes.signs import LETTERS
from olmo.exceptions import OLMoInputError


def by_hand(scene: Scene, grid: int) -> tuple[list[int], list[int], list[int]]:
    """The same targets, one patch at a time; sides that `grid` divides only."""
    cell = scene.object_map.shape[0] // grid
    kinds, xs, ys = [], [], []
    for row in range(grid):
        for column in range(grid):
            patch = scene.object_map[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            pixels = {k: int((patch == k).sum()) for k in range(1, len(scene.objects) + 1)}
            shares: dict[int, int] = {}
            for k, n in pixels.items():
                concept = scene.objects[k - 1].concept.index
                shares[concept] = shares.get(concept, 0) + n
            concept = max(sorted(shares), key=lambda c: shares[c])
            share = shares[concept] / cell**2
            if share >= 0.25:
                own = [k for k in pixels if scene.objects[k - 1].concept.index == concept]
                x, y = scene.objects[max(own, key=lambda k: pixels[k]) - 1].point
                kinds.append(concept + 1)
                xs.append(round(x / 2))
                ys.append(round(y / 2))
            else:
                kinds.append(-100 if share >= 0.10 else 0)
                xs.append(-100)
                ys.append(-100)
    return kinds, xs, ys


def test_against_a_count_by_hand(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        targets = patch_targets(scene, grid=12)
        kinds, xs, ys = by_hand(scene, 12)
        assert targets.kind.tolist() == kinds
        assert targets.x_bin.tolist() == xs and targets.y_bin.tolist() == ys
        assert targets.kind.dtype == targets.x_bin.dtype == targets.y_bin.dtype == np.int64


def test_centres_are_the_answered_points(scenes: list[Scene]) -> None:
    for scene in scenes:
        targets = patch_targets(scene, grid=12)
        wanted = {tuple(percent_to_px(v, 168) // 14 for v in o.point) for o in scene.objects}
        found = {(int(i % 12), int(i // 12)) for i in np.flatnonzero(targets.is_centre)}
        assert found == wanted and set(np.unique(targets.is_centre)) <= {0.0, 1.0}


def test_bins_are_in_range_and_only_where_a_thing_is(scenes: list[Scene]) -> None:
    for scene in scenes:
        t = patch_targets(scene)
        thing = t.kind > 0
        assert ((t.x_bin >= 0) == thing).all() and ((t.y_bin >= 0) == thing).all()
        assert t.x_bin.max() < 50 and t.y_bin.max() < 50 and t.kind.max() <= len(concepts())
        assert (t.x_bin[~thing] == -100).all()


def test_a_grid_that_does_not_divide_the_side() -> None:
    scene = make_scene(5, ScenesConfig(image_size=100))
    targets = patch_targets(scene, grid=12)
    assert targets.kind.shape == (144,) and targets.is_centre.sum() >= 1


def test_bins_must_fit_the_points(scenes: list[Scene]) -> None:
    with pytest.raises(OLMoInputError, match="n_bins=50"):
        patch_targets(scenes[0], n_bins=100)
    fine = make_scene(1, ScenesConfig(point_step_percent=1.0))
    assert patch_targets(fine, n_bins=100).x_bin.max() < 100


def test_letters_stand_where_they_are_drawn() -> None:
    config = ScenesConfig(word_share=1.0, max_objects=2, max_count=1, max_kinds=1)
    signs = [s for s in (make_scene(seed, config) for seed in range(40)) if s.word is not None]
    assert len(signs) >= 30
    for scene in signs:
        assert scene.word is not None and scene.word_box is not None
        left, top, right, bottom = scene.word_box
        assert len(scene.letter_boxes) == len(scene.word)
        assert all(left <= a < c <= right and top <= b < d <= bottom for a, b, c, d in scene.letter_boxes)
        letter = patch_targets(scene).letter
        read = {LETTERS[i - 1] for i in letter if i > 0}
        assert read <= set(scene.word) and len(read) >= len(set(scene.word)) - 1
        # Every patch that names a letter overlaps the box of that letter.
        for patch in np.flatnonzero(letter > 0):
            x, y = (patch % 12) * 14, (patch // 12) * 14
            own = [b for b, c in zip(scene.letter_boxes, scene.word, strict=True) if c == LETTERS[letter[patch] - 1]]
            assert any(a < x + 14 and c > x and b < y + 14 and d > y for a, b, c, d in own)


def test_no_sign_no_letters() -> None:
    assert (patch_targets(make_scene(3, ScenesConfig(word_share=0.0))).letter == -100).all()

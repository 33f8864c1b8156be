"""Things drawn another way stay the same things at the same place."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.data.scenes import make_scene
from olmo.data.scenes.art import sprite
from olmo.data.scenes.restyle import restyled
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.exceptions import OLMoConfigurationError


def test_silhouette_and_mask_stay() -> None:
    drawn = sprite(5, 40, 15, False)
    looks = set()
    for seed in range(30):
        other = restyled(np.random.default_rng(seed), drawn)
        assert other.mask is drawn.mask
        alpha = 255 - other.rest.astype(int)
        assert (alpha >= 255 - drawn.rest.astype(int)).all(), "lines cover, nothing becomes see-through"
        assert not alpha[~drawn.mask & (drawn.rest[..., 0] == 255)].any(), "nothing is drawn outside"
        assert (other.colour.astype(int) <= alpha).all(), "colours are multiplied by alpha"
        looks.add(other.colour.tobytes())
    assert len(looks) == 30
    again = restyled(np.random.default_rng(3), drawn)
    assert again.colour.tobytes() in looks


def test_some_get_dark_lines_around_them() -> None:
    drawn = sprite(5, 48, 0, False)
    inside = drawn.mask.copy()
    inside[1:-1, 1:-1] &= drawn.mask[:-2, 1:-1] & drawn.mask[2:, 1:-1] & drawn.mask[1:-1, :-2] & drawn.mask[1:-1, 2:]
    edge = drawn.mask & ~inside
    edge[[0, -1]] = edge[:, [0, -1]] = False
    dark = [restyled(np.random.default_rng(s), drawn).colour[edge].max() <= 50 for s in range(200)]
    assert 0.6 < np.mean(dark) < 0.85


def test_a_share_of_the_things_in_a_scene_is_drawn_anew() -> None:
    plain = ScenesConfig(concept_set="wide", art=["noto", "fluent"])
    n_changed = n_things = 0
    for seed in range(40):
        before, after = make_scene(seed, plain), make_scene(seed, plain.replace(restyle_share=0.5))
        same = [o.box for o in before.objects] == [o.box for o in after.objects]
        assert same and np.array_equal(before.object_map, after.object_map), "only looks change"
        a, b = np.asarray(before.image, dtype=int), np.asarray(after.image, dtype=int)
        for k in range(1, len(before.objects) + 1):
            n_things += 1
            # Brightness is drawn after the looks, so that of an unchanged thing differs too, by one factor.
            ratio = (b[before.object_map == k].sum(1) + 1) / (a[before.object_map == k].sum(1) + 1)
            n_changed += bool(np.std(ratio) > 0.05)
    assert 0.4 < n_changed / n_things < 0.75


def test_the_share_is_checked() -> None:
    with pytest.raises(OLMoConfigurationError, match="restyle_share"):
        ScenesConfig(restyle_share=1.5)

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from olmo.data.scenes import Scene, ScenesConfig, concepts, make_scene
from olmo.data.scenes.art import ConceptSet, sprite
from olmo.data.scenes.scene import percent_to_px
from olmo.exceptions import OLMoConfigurationError


@pytest.mark.parametrize("seed", [0, 7, 1_000_000_007, 2_000_000_011])
def test_same_seed_same_scene(seed: int, config: ScenesConfig) -> None:
    one, two = make_scene(seed, config), make_scene(seed, config)
    assert one.image.tobytes() == two.image.tobytes()
    assert np.array_equal(one.object_map, two.object_map)
    assert (one.objects, one.word, one.word_box, one.background) == (
        two.objects,
        two.word,
        two.word_box,
        two.background,
    )


def test_scene_does_not_depend_on_what_was_drawn_before(config: ScenesConfig) -> None:
    fresh = make_scene(3, config).image.tobytes()
    sprite.cache_clear()
    assert make_scene(3, config).image.tobytes() == fresh


def test_different_seeds_differ(scenes: list[Scene]) -> None:
    assert len({s.image.tobytes() for s in scenes}) == len(scenes)


def test_map_boxes_and_centres_agree(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.mode == "RGB"
        assert scene.object_map.shape == scene.image.size[::-1]
        assert set(np.unique(scene.object_map)) <= set(range(len(scene.objects) + 1))
        for k, thing in enumerate(scene.objects, start=1):
            x0, y0, x1, y1 = thing.box
            visible = scene.object_map == k
            inside = np.zeros_like(visible)
            inside[y0:y1, x0:x1] = True
            assert visible.any() and not (visible & ~inside).any()
            x, y = thing.centre
            assert visible[y, x]
            rows, cols = np.nonzero(visible)
            distances = (cols - cols.mean()) ** 2 + (rows - rows.mean()) ** 2
            assert (x - cols.mean()) ** 2 + (y - rows.mean()) ** 2 == pytest.approx(distances.min())


def test_points_lie_on_the_grid_on_their_object_near_its_centre(scenes: list[Scene]) -> None:
    for scene in scenes:
        side = scene.object_map.shape[0]
        for k, thing in enumerate(scene.objects, start=1):
            steps = np.array(thing.point) / scene.point_step_percent
            assert np.allclose(steps, steps.round())
            x, y = (percent_to_px(v, side) for v in thing.point)
            assert scene.object_map[y, x] == k
            # Half a step of 2 % is 1.7 px at 168 px; a point moved back onto its mask may be one step further off.
            assert max(abs(x - thing.centre[0]), abs(y - thing.centre[1])) <= 1.5 * 0.02 * side


def test_objects_hide_little_of_each_other_or_of_the_sign(scenes: list[Scene]) -> None:
    for scene in scenes:
        for k, o in enumerate(scene.objects, start=1):
            whole = sprite(o.concept.index, o.size, o.angle, o.mirrored).mask.sum()
            # Worst seen over 4,000 scenes: 98.3 % visible.
            assert (scene.object_map == k).sum() >= 0.95 * whole
        boxes = [o.box for o in scene.objects] + ([scene.word_box] if scene.word_box else [])
        for a, b in itertools.combinations(boxes, 2):
            width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
            assert min(width, height) <= 0.02 * scene.object_map.shape[0]


def test_counts_of_a_lone_kind_are_uniform() -> None:
    config = ScenesConfig(max_kinds=1, image_size=64, word_share=0.0, clutter=0)
    counts = np.bincount([len(make_scene(seed, config).objects) for seed in range(480)], minlength=7)
    assert counts[0] == 0
    # 80 expected each, standard deviation 8.
    assert (abs(counts[1:] - 80) < 33).all(), counts


def test_shares_of_kinds_and_words(scenes: list[Scene]) -> None:
    kinds = np.bincount([len(s.counts()) for s in scenes], minlength=5) / len(scenes)
    assert np.allclose(kinds[1:], [0.35, 0.30, 0.25, 0.10], atol=0.13)
    assert 0.25 < np.mean([s.word is not None for s in scenes]) < 0.55
    assert all((s.word is None) == (s.word_box is None) for s in scenes)
    assert max(len(s.objects) for s in scenes) <= 9


def test_every_concept_appears(scenes: list[Scene]) -> None:
    assert {o.concept.name for s in scenes for o in s.objects} == {c.name for c in concepts(ConceptSet.basic)}


def test_concepts_are_named_once_in_ascii() -> None:
    names = [c.name for c in concepts()]
    assert len(set(names)) == len(concepts()) == 138 and names == sorted(names)
    assert [c.index for c in concepts()] == list(range(138))
    assert len({c.plural for c in concepts()} | set(names)) == sum(1 + (c.name != c.plural) for c in concepts())
    basic = concepts(ConceptSet.basic)
    assert len(basic) == 28 and all(c.is_basic for c in basic) and set(basic) <= set(concepts())
    assert all((c.name + c.plural).isascii() and c.name.isalpha() and c.name.islower() for c in concepts())


def test_holes_belong_to_the_silhouette() -> None:
    key = next(c for c in concepts() if c.name == "key")
    drawn = sprite(key.index, 64, 0, False)
    assert (drawn.mask & (drawn.rest[..., 0] == 255)).any()


def test_sizes_are_drawn_from_the_list() -> None:
    config = ScenesConfig(image_sizes=[96, 128])
    assert {make_scene(seed, config).image.size for seed in range(20)} == {(96, 96), (128, 128)}


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 64, "min_object_share": 0.1, "point_step_percent": 2.0},
        {"image_size": 64, "max_objects": 12},
        {"image_size": 336},
        {"image_size": 100, "min_object_share": 0.14, "max_object_share": 0.14, "word_share": 1.0},
        {"image_size": 97, "min_object_share": 0.25, "max_objects": 4, "max_count": 4},
    ],
)
def test_edges_of_the_options_still_draw(options: dict) -> None:
    config = ScenesConfig(**options)
    for seed in range(40):
        scene = make_scene(seed, config)
        assert all((scene.object_map == k).any() for k in range(1, len(scene.objects) + 1))


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 32},
        {"image_sizes": [168, 10]},
        {"max_kinds": 5},
        {"max_objects": 3},
        {"min_object_share": 0.4, "max_object_share": 0.3},
        {"min_object_share": 0.3},
        {"point_step_percent": 0.7},
        {"point_step_percent": 5.0},
        {"word_share": 1.5},
        {"task_weights": {"dancing": 1.0}},
        {"task_weights": {"naming": 0.0}},
        {"task_weights": {"naming": 2.0, "reading": -1.0}},
    ],
)
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(OLMoConfigurationError):
        ScenesConfig(**options)


def test_scene_survives_pickling(scenes: list[Scene]) -> None:
    copy = pickle.loads(pickle.dumps(scenes[0]))
    assert copy.image.tobytes() == scenes[0].image.tobytes() and copy.objects == scenes[0].objects

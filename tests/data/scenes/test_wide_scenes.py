"""Scenes with every concept, two styles, photographs, counts to ten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olmo.data.scenes import Scene, ScenesConfig, ScenesDataset, Task, concepts, make_scene
from olmo.data.scenes.art import STYLES, ConceptSet
from olmo.data.scenes.backgrounds import Background
from olmo.exceptions import OLMoConfigurationError

WIDE = ScenesConfig(
    image_size=224, concept_set=ConceptSet.wide, art=list(STYLES), photo_share=0.4, max_count=10, max_objects=12,
    min_object_share=0.12, max_object_share=0.36,
)  # fmt: skip


@pytest.fixture(scope="module")
def wide() -> list[Scene]:
    return [make_scene(seed, WIDE) for seed in range(220)]


def test_every_style_and_most_concepts_appear(wide: list[Scene]) -> None:
    things = [o for scene in wide for o in scene.objects]
    assert {o.style for o in things} == set(STYLES)
    assert len({o.concept.name for o in things}) > 0.9 * len(concepts())
    mixed = [scene for scene in wide if len({o.style for o in scene.objects}) == 2]
    assert len(mixed) > 100, "styles are drawn per object"


def test_photographs_come_at_their_share(wide: list[Scene]) -> None:
    share = np.mean([scene.background is Background.photo for scene in wide])
    assert 0.28 < share < 0.52
    never = [make_scene(seed, ScenesConfig()).background for seed in range(60)]
    assert Background.photo not in never


def test_counts_go_to_ten_and_every_object_has_a_point_on_it(wide: list[Scene]) -> None:
    assert max(max(scene.counts().values()) for scene in wide) == 10
    assert max(len(scene.objects) for scene in wide) <= 12
    for scene in wide:
        assert all(0 <= v <= 98 for o in scene.objects for v in o.point)
        assert len({o.point for o in scene.objects}) == len(scene.objects)


def test_another_sheet_of_art_can_be_named() -> None:
    sheet = Path(__file__).parents[3] / "olmo/data/scenes/assets/fluent.png"
    named = make_scene(3, WIDE.replace(art=[str(sheet)]))
    bundled = make_scene(3, WIDE.replace(art=["fluent"]))
    assert named.image.tobytes() == bundled.image.tobytes()


def test_absent_things_come_from_the_set_of_the_scene() -> None:
    config = WIDE.replace(concept_set=ConceptSet.basic, absent_share=1.0, task_weights={"counting": 1.0})
    basic = {c.name for c in concepts(ConceptSet.basic)}
    asked = {q.concepts[0] for _, q in ScenesDataset(config).evaluation_items(40) if q.task is Task.counting}
    assert asked and asked <= basic


def test_bad_options_are_refused() -> None:
    with pytest.raises(OLMoConfigurationError, match="at least one style"):
        ScenesConfig(art=[])
    with pytest.raises(OLMoConfigurationError, match="photo_share"):
        ScenesConfig(photo_share=1.5)

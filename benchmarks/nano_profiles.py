"""What `nano.py` and `nano_video.py` ask about and what it expects: one profile for each kind of molmo-nano."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from olmo.data.scenes.art import ConceptSet
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.scenes_config import ScenesConfig


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Scenes to ask about.

    Attributes:
        scenes: how they are drawn; every task with a weight above 0 is asked, whatever the weight.
        n_scenes: how many.
        floors: least accuracy of a task, or least F1 of its points with `_f1` behind the name; 0 to 1.
    """

    scenes: ScenesConfig
    n_scenes: int
    floors: Mapping[str, float]


WIDE_TASKS = ("naming", "listing", "counting", "pointing", "position", "reading", "describing", "json",
              "pointing_several", "follow_up")  # fmt: skip

PROFILES: Mapping[str, Profile] = {
    "basic": Profile(
        scenes=ScenesConfig(),
        n_scenes=500,
        floors={"naming": 0.80, "counting": 0.65, "pointing": 0.45},
    ),
    "wide": Profile(
        # As configs/nano_wide.yaml trains, which a test compares.
        scenes=ScenesConfig(
            image_size=168,
            concept_set=ConceptSet.wide,
            art=["noto", "fluent"],
            photo_share=0.35,
            max_count=10,
            max_objects=12,
            min_object_share=0.12,
            task_weights=dict.fromkeys(WIDE_TASKS, 1.0),
        ),
        n_scenes=1000,
        floors={"naming": 0.95, "counting": 0.90, "pointing_f1": 0.90, "reading": 0.90, "position": 0.90},
    ),
}
"""Profiles by name. `basic` is what the first molmo-nano knew, `wide` what it is meant to know."""

DEFAULT_PROFILE = "wide"
"""What the bundled model was trained on."""

ART_FLOORS: Mapping[str, float] = {"naming": 0.50, "pointing_f1": 0.70}
"""Floors on art that was never trained on."""


def with_art(profile: Profile, sheet: Path) -> Profile:
    """The same scenes drawn with the art of a sprite sheet alone."""
    return replace(profile, scenes=replace(profile.scenes, art=[str(sheet)]), floors=ART_FLOORS)


VIDEO_SCENES = MovingScenesConfig(
    concept_set=ConceptSet.wide, image_size=168, art=["noto", "fluent"], photo_share=0.35, rates=[1.0, 2.0, 4.0]
)
"""The clips that `nano_video.py` asks about."""

VIDEO_FLOORS: Mapping[str, float] = {"action": 0.90, "order": 0.90, "qa": 0.85}
"""Least accuracy on them; `qa` is actor, counting and when together."""

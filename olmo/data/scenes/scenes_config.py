"""Options of the scenes generator."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.data.scenes.art import ConceptSet
from olmo.data.scenes.config_checks import check_art, check_ranges, checked_weights
from olmo.exceptions import OLMoConfigurationError


class Task(ConfigEnum):
    """What a question asks for."""

    naming = "naming"
    listing = "listing"
    counting = "counting"
    pointing = "pointing"
    position = "position"
    reading = "reading"
    describing = "describing"
    json = "json"
    pointing_several = "pointing_several"
    follow_up = "follow_up"


@dataclass(kw_only=True)
class ScenesConfig(BaseConfig):
    """How pictures are drawn and what is asked about them."""

    image_size: int = 168
    """Side of the square picture, px; at least 64. Used when `image_sizes` is empty."""

    image_sizes: list[int] = field(default_factory=list)
    """Sides to draw from, px, one per scene; empty means always `image_size`."""

    concept_set: ConceptSet = ConceptSet.basic
    """Kinds of thing: `basic`, 28, or `wide`, 138."""

    art: list[str] = field(default_factory=lambda: ["noto"])
    """Styles of art, one drawn per object: `noto`, `fluent`, or the path of another sprite sheet."""

    restyle_share: float = 0.0
    """Share of things drawn with other colours, flat fills or dark outlines, 0 to 1; for models that meet other art."""

    photo_share: float = 0.0
    """Share of scenes on a photograph instead of a drawn background, 0 to 1."""

    min_object_share: float = 0.14
    """Smallest object, longer side as a share of the picture's side; 0.1 to 0.5. Where a crowded scene does not fit,
    sizes shrink, to 0.6 of this at the least."""

    max_object_share: float = 0.36
    """Largest object, as `min_object_share`. Crowded scenes use a lower top."""

    max_kinds: int = 4
    """Most kinds of thing in one scene, 1 to 4."""

    max_count: int = 6
    """Most objects of one kind, 1 to 10."""

    max_objects: int = 9
    """Most objects in one scene, `max_count` to 14."""

    clutter: int = 5
    """Most pieces of clutter (lines, dots, triangles) below the objects; 0 to 20."""

    word_share: float = 0.4
    """Share of scenes that carry a sign with a word, 0 to 1."""

    absent_share: float = 0.05
    """Share of counting and pointing questions about a thing that is not there, 0 to 1."""

    point_step_percent: float = 2.0
    """Grid of the answered points, percent of the side; divides 100, at most a fifth of the smallest object."""

    questions_per_scene: int = 6
    """Questions per training example, at least 1; a scene may offer fewer."""

    task_weights: dict[str, float] = field(
        default_factory=lambda: {
            "naming": 1.0,
            "listing": 0.7,
            "counting": 1.2,
            "pointing": 2.0,
            "position": 2.0,
            "reading": 1.5,
            "describing": 0.7,
        }
    )
    """How often each task is asked, relative weights; a task left out is never asked. Position and reading weigh more
    than they are asked, because few scenes have a clear relation or a sign. Left out by default are `json` (counts, or
    all about the scene, as one line of JSON), `pointing_several` and `follow_up`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = (
            ("image_size", 64, 4096),
            ("min_object_share", 0.1, 0.5),
            ("max_object_share", self.min_object_share, 0.5),
            ("max_kinds", 1, 4),
            ("max_count", 1, 10),
            ("max_objects", max(self.max_count, self.max_kinds), 14),
            ("restyle_share", 0, 1),
            ("photo_share", 0, 1),
            ("clutter", 0, 20),
            ("word_share", 0, 1),
            ("absent_share", 0, 1),
            ("questions_per_scene", 1, 1000),
            ("point_step_percent", 0.5, 20 * self.min_object_share),
        )
        check_ranges(self, ranges)
        check_art(self.art)
        if any(not 64 <= side <= 4096 for side in self.image_sizes):
            raise OLMoConfigurationError(f"{self.image_sizes}: each side must be 64 to 4096 px", "image_sizes")
        if abs(100 / self.point_step_percent - round(100 / self.point_step_percent)) > 1e-9:
            raise OLMoConfigurationError(
                f"{self.point_step_percent} does not divide 100; use for example 1.0 or 2.0", "point_step_percent"
            )
        # Above a quarter of the picture (boxes grow by up to 1.4 a side when turned) random placing stops finding room.
        if self.max_objects * self.min_object_share**2 > 0.25:
            raise OLMoConfigurationError(
                f"{self.max_objects} objects of at least {self.min_object_share} of the side do not fit; "
                f"allowed: max_objects * min_object_share ** 2 <= 0.25; lower one of them",
                "max_objects",
            )
        self.task_weights = checked_weights(self.task_weights, Task)

    def asked_tasks(self) -> list[Task]:
        """Tasks with a weight above 0, in the order of `Task`."""
        return [task for task in Task if self.task_weights.get(task.value, 0) > 0]

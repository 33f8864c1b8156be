"""Options of the generator of moving scenes."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.data.scenes.art import ConceptSet
from olmo.data.scenes.config_checks import check_art, check_ranges, checked_weights
from olmo.exceptions import OLMoConfigurationError


class MovingTask(ConfigEnum):
    """What a question about a clip asks for."""

    action = "action"
    actor = "actor"
    order = "order"
    counting = "counting"
    when = "when"
    describing = "describing"
    summary = "summary"


@dataclass(kw_only=True)
class MovingScenesConfig(BaseConfig):
    """How clips are drawn and what is asked about them."""

    image_size: int = 112
    """Side of the square frames, px; 64 to 4096."""

    concept_set: ConceptSet = ConceptSet.basic
    """Kinds of thing: `basic`, 28, or `wide`, 138."""

    art: list[str] = field(default_factory=lambda: ["noto"])
    """Styles of art, one drawn per thing: `noto`, `fluent`, or the path of another sprite sheet."""

    photo_share: float = 0.0
    """Share of clips on a photograph instead of a drawn background, 0 to 1."""

    min_frames: int = 8
    """Fewest frames of a clip, at least 8: with fewer, what happens first could not be told from what happens last."""

    max_frames: int = 12
    """Most frames of a clip, `min_frames` to 1,000."""

    rates: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """Frames a second to draw from, one per clip; each above 0."""

    min_object_share: float = 0.18
    """Smallest thing, longer side as a share of the frame's side; 0.1 to 0.4. Where a clip does not fit, sizes shrink,
    to 0.6 of this at the least."""

    max_object_share: float = 0.32
    """Largest thing, as `min_object_share`; up to 0.4."""

    max_events: int = 3
    """Most events one after another, 1 to 4; each is that of a thing of its own kind."""

    max_still: int = 2
    """Most things that only stand there, 0 to 4."""

    group_share: float = 0.35
    """Share of clips with several things of one kind, some of which come or go; 0 to 1."""

    pan_share: float = 0.4
    """Share of clips in which the camera moves, by up to an eighth of the side; 0 to 1."""

    clutter: int = 4
    """Most pieces of clutter below the things; 0 to 20."""

    questions_per_clip: int = 6
    """Questions per training example, at least 1; a clip may offer fewer."""

    task_weights: dict[str, float] = field(
        default_factory=lambda: {
            "action": 2.0,
            "actor": 1.5,
            "order": 2.5,
            "counting": 1.5,
            "when": 1.0,
            "describing": 1.0,
            "summary": 0.5,
        }
    )
    """How often each task is asked, relative weights; a task left out is never asked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = (
            ("image_size", 64, 4096),
            ("photo_share", 0, 1),
            ("min_frames", 8, 1000),
            ("max_frames", self.min_frames, 1000),
            ("min_object_share", 0.1, 0.4),
            ("max_object_share", self.min_object_share, 0.4),
            ("max_events", 1, 4),
            ("max_still", 0, 4),
            ("group_share", 0, 1),
            ("pan_share", 0, 1),
            ("clutter", 0, 20),
            ("questions_per_clip", 1, 1000),
        )
        check_ranges(self, ranges)
        check_art(self.art)
        if not self.rates or any(not rate > 0 for rate in self.rates):
            raise OLMoConfigurationError(f"must hold rates above 0, got {self.rates}", "rates")
        self.task_weights = checked_weights(self.task_weights, MovingTask)

    def asked_tasks(self) -> list[MovingTask]:
        """Tasks with a weight above 0, in the order of `MovingTask`."""
        return [task for task in MovingTask if self.task_weights.get(task.value, 0) > 0]

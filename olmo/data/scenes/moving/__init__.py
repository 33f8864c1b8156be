"""Moving scenes: clips of known things doing known things, drawn from a seed, with questions about them."""

from olmo.data.scenes.moving.moving_config import MovingScenesConfig, MovingTask
from olmo.data.scenes.moving.moving_scene import MovingScene, make_moving_scene
from olmo.data.scenes.moving.questions import MovingQuestion, make_moving_question, make_moving_questions

__all__ = [
    "MovingQuestion",
    "MovingScene",
    "MovingScenesConfig",
    "MovingTask",
    "make_moving_question",
    "make_moving_questions",
    "make_moving_scene",
]

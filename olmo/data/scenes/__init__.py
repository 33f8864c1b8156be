"""Scenes: drawn pictures with exact ground truth, questions about them and scoring of the answers."""

from olmo.data.scenes.art import Concept, concepts
from olmo.data.scenes.dataset import ScenesDataset, all_text_samples
from olmo.data.scenes.patch_targets import PatchTargets, patch_targets
from olmo.data.scenes.questions import Question, make_question, make_questions
from olmo.data.scenes.scene import Scene, SceneObject, make_scene
from olmo.data.scenes.scenes_config import ScenesConfig, Task
from olmo.data.scenes.scoring import score

__all__ = [
    "Concept",
    "PatchTargets",
    "Question",
    "Scene",
    "SceneObject",
    "ScenesConfig",
    "ScenesDataset",
    "Task",
    "all_text_samples",
    "concepts",
    "make_question",
    "make_questions",
    "make_scene",
    "patch_targets",
    "score",
]

"""Answers about a scene as one line of JSON: the counts alone, or all that there is to know."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from olmo.data.scenes.scene import Scene


def json_answer(scene: Scene, rng: np.random.Generator) -> tuple[str, str, Any]:
    """Key of the wording, answer, and the value that it stands for. Kinds are in alphabetical order."""
    counts = scene.counts()
    if rng.random() < 0.5:
        return "json_counts", json.dumps(counts), counts
    facts = {"things": counts, "background": scene.background.value, "sign": scene.word}
    return "json_scene", json.dumps(facts), facts


def parsed(text: str) -> Any:
    """The value of a text in JSON; None for any other text."""
    try:
        return json.loads(text)
    except ValueError:
        return None

"""Second and third questions of a conversation about a scene, which lean on what was said before, as "them" does.

Knows what a first question and its answer were about; wordings live here because they need no plural or place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from olmo.data.scenes.art import concepts_by_name
from olmo.data.scenes.points_text import kind_points, point_text
from olmo.data.scenes.scene import Scene

HOW_MANY = ("How many of them are there?", "How many are there?", "And how many do you see?", "Count them.")
POINT = ("Point to them.", "Point at all of them.", "Where are they?", "Show me where.", "Mark each one.")
OTHERS = ("What else is there?", "What else do you see?", "Which other things are in the picture?")
ANOTHER = ("And the {things}?", "What about the {things}?", "And how many {things}?")
NOTHING_ELSE = "nothing"

Turn = tuple[str, str]
"""A question and its answer."""


def follow_up(
    scene: Scene, rng: np.random.Generator, name: str, after_count: bool, skip: frozenset[str]
) -> tuple[str, Turn, str, dict[str, Any]] | None:
    """A question about the kind a conversation has just spoken of, or from it to the others.

    Args:
        scene: the picture and its truth.
        rng: source of all choices.
        name: kind of thing the last answer was about.
        after_count: the last question asked for a number, so "And the cats?" asks for one too.
        skip: forms of follow-up that this conversation has had: "count", "point", "others", "another".

    Returns:
        Form, (question, answer), the kind it is about, and what scoring expects; None when every form was had.
    """
    others = [other for other in scene.counts() if other != name]
    forms = {"point": True, "count": not after_count, "others": True, "another": after_count and bool(others)}
    open_forms = [form for form, is_open in forms.items() if is_open and form not in skip]
    if not open_forms:
        return None
    form = open_forms[int(rng.integers(len(open_forms)))]
    if form == "another":
        name = others[int(rng.integers(len(others)))]
    wordings = {"count": HOW_MANY, "point": POINT, "others": OTHERS, "another": ANOTHER}[form]
    concept = concepts_by_name()[name]
    prompt = wordings[int(rng.integers(len(wordings)))].format(things=concept.plural)
    if form == "point":
        points = kind_points(scene, name)
        return form, (prompt, point_text(points, concept.name, concept.plural)), name, {
            "count": len(points), "points": points,
        }  # fmt: skip
    answer = (", ".join(others) or NOTHING_ELSE) if form == "others" else str(len(scene.of(name)))
    return form, (prompt, answer), name, {"text": answer}

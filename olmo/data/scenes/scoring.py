"""Is a model's answer about a scene right? Yes or no, from the ground truth.

The point parser here reads only what these answers need; `olmo.preprocessing.points` is the full one, which data may
not import.
"""

from __future__ import annotations

import re
import string

import numpy as np

from olmo.data.scenes.art import concepts, concepts_by_name
from olmo.data.scenes.json_answers import parsed
from olmo.data.scenes.points_text import NONE_THERE
from olmo.data.scenes.questions import Question
from olmo.data.scenes.scene import Scene, percent_to_px
from olmo.data.scenes.scenes_config import Task

# A point this share of the side off the object's silhouette still counts.
POINT_SLACK = 0.015
_PAIR = re.compile(r"x(\d*)\s*=\s*[\"']?\s*(-?\d+(?:\.\d+)?)[\"']?\s*y\1\s*=\s*[\"']?\s*(-?\d+(?:\.\d+)?)")
_TAG = re.compile(r"(<points?\s[^>]*>([^<]*)</points?>)")
_COUNTED = re.compile(r"(\d+)\s+([a-z]+)")
_ARTICLES = frozenset({"a", "an", "the"})


def score(question: Question, text: str, scene: Scene) -> bool:
    """True when `text` answers `question` about `scene`.

    Pointing: every point lies on a different object of the asked kind, none is missing and none is extra. Describing:
    the set of (count, kind) is exact. JSON: the same value. Everything else: equal after lower-casing and dropping
    punctuation and articles.
    """
    if question.task is Task.pointing_several:
        return _score_several(question, text, scene)
    if question.task is Task.pointing or "points" in question.expected:
        if not question.expected["count"]:
            return normalise(text) == normalise(NONE_THERE)
        return _score_points(read_points(text), question.concepts[0], question.expected["count"], scene)
    if question.task is Task.describing:
        return counts_in(text) == question.expected["counts"]
    if question.task is Task.json:
        return parsed(text) == question.expected["json"]
    return normalise(text) == normalise(question.answer)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus blanks."""
    words = text.lower().translate(str.maketrans(string.punctuation, " " * len(string.punctuation))).split()
    return " ".join(w for w in words if w not in _ARTICLES)


def read_points(text: str) -> list[tuple[float, float]]:
    """Points in percent in the order of the text, as written: values outside 0 to 100 are kept."""
    return [(float(x), float(y)) for _, x, y in _PAIR.findall(text)]


def counts_in(text: str) -> dict[str, int] | None:
    """Count per concept named in a caption; None when a kind is named twice."""
    forms = {form: c.name for c in concepts() for form in (c.name, c.plural)}
    counts: dict[str, int] = {}
    for number, word in _COUNTED.findall(text.lower()):
        if word in forms:
            if forms[word] in counts:
                return None
            counts[forms[word]] = int(number)
    return counts


def _score_points(points: list[tuple[float, float]], name: str, count: int, scene: Scene) -> bool:
    wanted = {k for k, o in enumerate(scene.objects, start=1) if o.concept.name == name}
    if len(points) != count or any(not 0 <= v <= 100 for p in points for v in p):
        return False
    return _all_matched([touched(scene, p) & wanted for p in points])


def _score_several(question: Question, text: str, scene: Scene) -> bool:
    """Each kind has a tag of its own, named after it, with its points."""
    tags = {name.lower(): tag for tag, name in _TAG.findall(text)}
    by_name = concepts_by_name()
    for name in question.concepts:
        tag = tags.get(by_name[name].plural) or tags.get(name)
        if tag is None or not _score_points(read_points(tag), name, len(scene.of(name)), scene):
            return False
    return len(_TAG.findall(text)) == len(question.concepts)


def touched(scene: Scene, point: tuple[float, float]) -> set[int]:
    """Numbers (1 and up) of the objects within `POINT_SLACK` of a point in percent."""
    side = scene.object_map.shape[0]
    radius = POINT_SLACK * side
    x, y = (percent_to_px(v, side) for v in point)
    reach = int(radius)
    top, left = max(0, y - reach), max(0, x - reach)
    window = scene.object_map[top : y + reach + 1, left : x + reach + 1]
    rows, cols = np.nonzero(window)
    near = (rows + top - y) ** 2 + (cols + left - x) ** 2 <= radius**2
    return set(window[rows[near], cols[near]].tolist())


def _all_matched(options: list[set[int]]) -> bool:
    """True when each point can be given an object of its own (augmenting paths; at most 10 points)."""
    owner: dict[int, int] = {}

    def give(point: int, seen: set[int]) -> bool:
        for k in options[point] - seen:
            seen.add(k)
            if k not in owner or give(owner[k], seen):
                owner[k] = point
                return True
        return False

    return all(give(point, set()) for point in range(len(options)))

"""Scores of answers about scenes, from the ground truth of the picture."""

from __future__ import annotations

from olmo.data.scenes.art import concepts_by_name
from olmo.data.scenes.questions import Question
from olmo.data.scenes.scene import Scene, percent_to_px
from olmo.data.scenes.scenes_config import Task
from olmo.data.scenes.scoring import read_points, score
from olmo.eval.metrics.pointing import n_matched, precision_recall_f1
from olmo.preprocessing.points import Point, parse


def asked_kinds(question: Question) -> tuple[str, ...]:
    """Kinds of thing that an answer has to point at, present or not; none where it is not about places."""
    if question.task in (Task.pointing, Task.pointing_several) or "points" in question.expected:
        return question.concepts
    return ()


def reported_task(question: Question) -> str:
    """What reports call the task: its name, with `_absent` behind it for counting or pointing at what is not there."""
    is_absent = question.task in (Task.counting, Task.pointing) and not question.expected["count"]
    return question.task.value + ("_absent" if is_absent else "")


def points_inside(question: Question, text: str, scene: Scene) -> bool:
    """True when the points of `text` lie inside the objects asked for, one in each, none missing and none extra.

    Unlike in `olmo.data.scenes.scoring.score`, a point beside the silhouette is wrong however near it is. Where several
    kinds are asked for, the label of a point says which kind it is for.
    """
    kinds = asked_kinds(question)
    if len(kinds) == 1:
        return _one_in_each(read_points(text), kinds[0], scene)
    points = parse(text)
    return all(_one_in_each([(p.x, p.y) for p in points if _is_called(p, kind)], kind, scene) for kind in kinds)


def _one_in_each(points: list[tuple[float, float]], kind: str, scene: Scene) -> bool:
    numbers = _numbers(kind, scene)
    if len(points) != len(numbers) or any(not 0 <= v <= 100 for p in points for v in p):
        return False
    height, width = scene.object_map.shape
    hit = {int(scene.object_map[percent_to_px(y, height), percent_to_px(x, width)]) for x, y in points}
    return hit == set(numbers)


def _numbers(kind: str, scene: Scene) -> list[int]:
    """Numbers in the object map of the objects of a kind."""
    return [k for k, o in enumerate(scene.objects, start=1) if o.concept.name == kind]


def _is_called(point: Point, kind: str) -> bool:
    return point.label.lower() in (kind, concepts_by_name()[kind].plural)


def pointing_scores(question: Question, text: str, scene: Scene) -> dict[str, float] | None:
    """Precision, recall and F1 of the points in an answer, by the masks of the objects; see `point_scores`.

    Where several kinds are asked for, points are paired within their kind, and one labelled otherwise is wrong.

    Returns:
        `precision`, `recall` and `f1`, 0 to 1; None where the question is not about places.
    """
    kinds = asked_kinds(question)
    if not kinds:
        return None
    found = parse(text)
    n_right = n_true = 0
    for kind in kinds:
        numbers = _numbers(kind, scene)
        truth = [Point(*scene.objects[k - 1].point) for k in numbers]
        masks = [scene.object_map == k for k in numbers]
        of_kind = found if len(kinds) == 1 else [p for p in found if _is_called(p, kind)]
        n_right += n_matched([_at_pixel(p, scene) for p in of_kind], truth, masks)
        n_true += len(numbers)
    return precision_recall_f1(n_right, len(found), n_true)


def _at_pixel(point: Point, scene: Scene) -> Point:
    """The point moved to where rounding gives the pixel that Scenes says it falls on."""
    height, width = scene.object_map.shape
    return Point(percent_to_px(point.x, width) * 100 / width, percent_to_px(point.y, height) * 100 / height)


def scene_marks(question: Question, text: str, scene: Scene) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it is right without slack for points.

    Returns:
        (by `olmo.data.scenes.scoring.score`, with every point inside its object as well); the same twice where the
        question is not about places.
    """
    is_right = score(question, text, scene)
    if any(scene.of(kind) for kind in asked_kinds(question)):
        return is_right, is_right and points_inside(question, text, scene)
    return is_right, is_right


def scene_scores(question: Question, text: str, scene: Scene) -> dict[str, float]:
    """An answer's score under the name of its task, and under `accuracy` for all tasks together.

    Returns:
        The names that `olmo.eval.scenes_eval` reports: the task, with `_absent` behind it for things that are not
        there; for points inside their objects `pointing`, and `pointing_near` with slack; `pointing_precision`,
        `pointing_recall` and `pointing_f1`. `pointing_several` and `follow_up` in the same way.
    """
    is_right, is_inside = scene_marks(question, text, scene)
    name, task = reported_task(question), question.task.value
    scores = {"accuracy": float(is_inside), name: float(is_inside)}
    if question.task in (Task.pointing, Task.pointing_several) and name == task:
        scores[f"{task}_near"] = float(is_right)
    points = pointing_scores(question, text, scene) or {}
    return scores | {f"{task}_{figure}": value for figure, value in points.items()}

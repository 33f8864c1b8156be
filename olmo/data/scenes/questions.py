"""Questions about a scene, with answers that follow from its ground truth.

Every question is answerable from the picture alone and has exactly one right answer. Wordings live in `wordings.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.data.scenes.art import concepts, concepts_by_name
from olmo.data.scenes.followups import Turn, follow_up
from olmo.data.scenes.json_answers import json_answer
from olmo.data.scenes.points_text import kind_points, point_text
from olmo.data.scenes.scene import Scene
from olmo.data.scenes.scenes_config import ScenesConfig, Task
from olmo.data.scenes.wordings import WORDINGS

# An extreme or a relation is asked about only when it is so by this share of the side.
EXTREME_MARGIN = 0.08
RELATION_MARGIN = 0.10
# "left or above?" is clear when one offset is this many times the other.
DOMINANCE = 2.0
STYLES = {
    Task.naming: "user_qa",
    Task.listing: "user_qa",
    Task.counting: "user_qa",
    Task.pointing: "pointing",
    Task.position: "user_qa",
    Task.reading: "user_qa",
    Task.describing: "long_caption",
    Task.pointing_several: "pointing",
    Task.follow_up: "user_qa",
    Task.json: "json",
}


@dataclass(frozen=True)
class Question:
    """One question and its answer.

    Attributes:
        task: what is asked for.
        prompt: plain English, ASCII.
        answer: the reference answer, ASCII.
        concepts: names of the things asked about, if any.
        expected: what scoring needs: `text`, `count`, `points`, `points_of`, `counts` or `json` according to the task.
        style: key for the prompt formatter.
        history: (question, answer) turns before this one.
    """

    task: Task
    prompt: str
    answer: str
    concepts: tuple[str, ...]
    expected: dict[str, Any]
    style: str
    history: tuple[Turn, ...] = ()

    def messages(self, with_answer: bool = True) -> list[dict[str, str]]:
        """The conversation as user and assistant turns, the answer last."""
        turns = [("user", self.prompt), ("assistant", self.answer)][: 1 + with_answer]
        before = [pair for q, a in self.history for pair in (("user", q), ("assistant", a))]
        return [{"role": role, "content": content} for role, content in before + turns]


def make_questions(
    scene: Scene,
    rng: np.random.Generator,
    tasks: Iterable[Task | str] | None = None,
    n: int | None = None,
    config: ScenesConfig | None = None,
) -> list[Question]:
    """Draw up to `n` different questions about `scene`.

    Args:
        scene: the picture and its truth.
        rng: source of all choices.
        tasks: tasks to draw from; None means all with a weight above 0.
        n: number of questions; None means `config.questions_per_scene`. Fewer come back when a scene offers no more.
        config: weights of the tasks and share of absent things.
    """
    config = config or ScenesConfig()
    n = config.questions_per_scene if n is None else n
    allowed = set(Task) if tasks is None else {Task.parse(t) for t in tasks}
    weights = {t: config.task_weights.get(t.value, 0.0) for t in Task if t in allowed}
    names = [t for t, w in weights.items() if w > 0]
    shares = np.array([weights[t] for t in names])
    questions: dict[tuple[Task, tuple[str, ...], str], Question] = {}
    # Some draws give nothing (no sign to read) or what was asked already in other words; a bounded number of tries
    # keeps this quick. A first question is tried for as long as there is a task left.
    tries = 0
    while names and len(questions) < n and (tries < 4 * n or not questions):
        tries += 1
        task = names[int((rng.random() * shares.sum() < np.cumsum(shares)).argmax())]
        question = make_question(scene, rng, task, config.absent_share)
        if question is None:
            keep = [i for i, t in enumerate(names) if t is not task]
            names, shares = [names[i] for i in keep], shares[keep]
        else:
            questions.setdefault((task, question.concepts, question.answer), question)
    return list(questions.values())


def make_question(scene: Scene, rng: np.random.Generator, task: Task, absent_share: float = 0.05) -> Question | None:
    """One question of `task`, or None when the scene offers none (no sign, no clear relation)."""
    draft = _MAKERS[task](scene, rng, absent_share)
    if draft is None:
        return None
    wording, answer, fields, asked, expected = draft
    prompt = _pick(rng, WORDINGS[wording]).format(**fields)
    history = expected.pop("history", ())
    return Question(task, prompt, answer, asked, expected, STYLES[task], history)


# wording key, answer, fields of the wording, concepts asked about, expected
_Draft = tuple[str, str, dict[str, str], tuple[str, ...], dict[str, Any]]


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _naming(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    names = list(scene.counts())
    if len(names) == 1:
        return "naming", names[0], {}, (names[0],), {"text": names[0]}
    centres = np.array([o.centre for o in scene.objects]) / scene.object_map.shape[0]
    options = []
    for place, axis, sign in (("left", 0, 1), ("right", 0, -1), ("top", 1, 1), ("bottom", 1, -1)):
        along = sign * centres[:, axis]
        name = scene.objects[int(along.argmin())].concept.name
        other = min(v for v, o in zip(along, scene.objects, strict=True) if o.concept.name != name)
        if other - along.min() >= EXTREME_MARGIN and along.min() < sign * _sign_centre(scene, axis, sign):
            options.append((place, name))
    if not options:
        return None
    place, name = _pick(rng, options)
    return f"naming_{place}", name, {}, (name,), {"text": name}


def _sign_centre(scene: Scene, axis: int, sign: int) -> float:
    """Centre of the sign along an axis as a share of the side; beyond every object where there is no sign."""
    if scene.word_box is None:
        return sign * float("inf")
    return (scene.word_box[axis] + scene.word_box[axis + 2]) / 2 / scene.object_map.shape[axis]


def _listing(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    names = list(scene.counts())
    text = ", ".join(names)
    return "listing", text, {}, tuple(names), {"text": text}


def _absent_or_present(scene: Scene, rng: np.random.Generator, absent_share: float) -> str:
    """Name of a thing to ask about; a present kind comes up as often as it has objects."""
    if rng.random() < absent_share:
        present = scene.counts()
        return _pick(rng, [c.name for c in concepts(scene.concept_set) if c.name not in present])
    return _pick(rng, scene.objects).concept.name


def _counting(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    name = _absent_or_present(scene, rng, absent_share)
    count = len(scene.of(name))
    return "counting", str(count), {"things": concepts_by_name()[name].plural}, (name,), {"count": count}


def _pointing(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    if rng.random() < absent_share:
        present = scene.counts()
        name = _pick(rng, [c.name for c in concepts(scene.concept_set) if c.name not in present])
    else:
        name = _pick(rng, list(scene.counts()))
    concept = concepts_by_name()[name]
    points = kind_points(scene, name)
    fields = {"thing": concept.name, "things": concept.plural}
    expected = {"count": len(points), "points": points}
    # Plural wordings go with any number, so that the grammar of the question does not give the number away.
    wording = "pointing_one" if len(points) == 1 and rng.random() < 0.5 else "pointing"
    return wording, point_text(points, concept.name, concept.plural), fields, (name,), expected


def _pointing_several(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    names = list(scene.counts())
    if len(names) < 2:
        return None
    asked = [names[i] for i in rng.permutation(len(names))[:2]]
    first, second = (concepts_by_name()[name] for name in asked)
    points = {name: kind_points(scene, name) for name in asked}
    answer = " ".join(point_text(points[c.name], c.name, c.plural) for c in (first, second))
    fields = {"first": first.plural, "second": second.plural}
    return "pointing_several", answer, fields, tuple(asked), {"points_of": points}


def _follow_up(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    opening = _naming if rng.random() < 0.5 else _counting
    draft = opening(scene, rng, 0.0)
    if draft is None:
        return None
    wording, answer, fields, (name,), _ = draft
    turns = [(_pick(rng, WORDINGS[wording]).format(**fields), answer)]
    after_count, had = opening is _counting, frozenset[str]()
    expected: dict[str, Any] = {}
    for _ in range(1 + int(rng.integers(2))):
        found = follow_up(scene, rng, name, after_count, had)
        if found is None:
            break
        form, turn, name, expected = found
        turns.append(turn)
        had, after_count = had | {form}, form in ("count", "another")
        if form == "others":
            break
    prompt, answer = turns.pop()
    return "follow_up", answer, {"prompt": prompt}, (name,), {**expected, "history": tuple(turns)}


def _position(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    single = [name for name, count in scene.counts().items() if count == 1]
    pairs = [(a, b) for a in single for b in single if a != b]
    side = scene.object_map.shape[0]
    for i in rng.permutation(len(pairs)).tolist():
        a, b = pairs[i]
        first, second = scene.of(a)[0].centre, scene.of(b)[0].centre
        dx, dy = (first[0] - second[0]) / side, (first[1] - second[1]) / side
        across, along = ("left" if dx < 0 else "right"), ("above" if dy < 0 else "below")
        options = []
        if abs(dx) >= RELATION_MARGIN:
            options.append(("position_across", across))
        if abs(dy) >= RELATION_MARGIN:
            options.append(("position_along", along))
        if max(abs(dx), abs(dy)) >= max(RELATION_MARGIN, DOMINANCE * min(abs(dx), abs(dy))):
            options += [("position", across if abs(dx) > abs(dy) else along)] * 2
        if options:
            wording, answer = _pick(rng, options)
            return wording, answer, {"first": a, "second": b}, (a, b), {"text": answer}
    return None


def _reading(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    if scene.word is None:
        return None
    return "reading", scene.word, {}, (), {"text": scene.word}


def _describing(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    counts = scene.counts()
    return "describing", caption(scene), {}, tuple(counts), {"counts": counts}


def _json(scene: Scene, rng: np.random.Generator, absent_share: float) -> _Draft | None:
    wording, answer, value = json_answer(scene, rng)
    return wording, answer, {}, tuple(scene.counts()), {"json": value}


def caption(scene: Scene) -> str:
    """The caption that follows from the truth: kinds in alphabetical order, counts in digits, then the sign."""
    by_name = concepts_by_name()
    parts = [f"{n} {by_name[name].name if n == 1 else by_name[name].plural}" for name, n in scene.counts().items()]
    things = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    sign = f" The sign says {scene.word}." if scene.word else ""
    return f"{things} on a {scene.background.value} background.{sign}"


_MAKERS: dict[Task, Callable[[Scene, np.random.Generator, float], _Draft | None]] = {
    Task.naming: _naming,
    Task.listing: _listing,
    Task.counting: _counting,
    Task.pointing: _pointing,
    Task.position: _position,
    Task.reading: _reading,
    Task.describing: _describing,
    Task.pointing_several: _pointing_several,
    Task.follow_up: _follow_up,
    Task.json: _json,
}

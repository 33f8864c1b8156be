"""Questions about a clip, with answers that follow from its ground truth. Each has exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.data.scenes.art import concepts_by_name
from olmo.data.scenes.moving.actors import COLOURS, DIRECTIONS, PHRASES, VERBS, Action, Actor
from olmo.data.scenes.moving.moving_config import MovingScenesConfig, MovingTask
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.wordings import WORDINGS
from olmo.data.scenes.scoring import normalise

HALF_MARGIN = 0.1
"""An event is asked to a half of the clip only where its middle is this share of the clip away from the middle."""

FIRST_HALF, SECOND_HALF = "first half", "second half"
STYLES = {MovingTask.describing: "long_caption"}
DEFAULT_STYLE = "user_qa"


@dataclass(frozen=True)
class MovingQuestion:
    """One question about a clip and its answer.

    Attributes:
        task: what is asked for.
        form: which of the task's questions, such as `first` or `relation` of the task `order`; the key of its wordings.
        prompt: plain English, ASCII.
        answer: the reference answer, ASCII.
        choices: answers that a guess would draw from, where the question names them; else empty.
        style: key for the prompt formatter.
    """

    task: MovingTask
    form: str
    prompt: str
    answer: str
    choices: tuple[str, ...]
    style: str

    def messages(self, with_answer: bool = True) -> list[dict[str, str]]:
        """The conversation as user and assistant turns."""
        turns = [("user", self.prompt), ("assistant", self.answer)][: 1 + with_answer]
        return [{"role": role, "content": content} for role, content in turns]


def is_right(question: MovingQuestion, text: str) -> bool:
    """Whether `text` answers the question: the same words, whatever their case, articles and punctuation."""
    return normalise(text) == normalise(question.answer)


def make_moving_questions(
    scene: MovingScene,
    rng: np.random.Generator,
    tasks: Iterable[MovingTask | str] | None = None,
    n: int | None = None,
    config: MovingScenesConfig | None = None,
) -> list[MovingQuestion]:
    """Draw up to `n` different questions about a clip.

    Args:
        scene: the clip and its truth.
        rng: source of all choices.
        tasks: tasks to draw from; None means all with a weight above 0.
        n: number of questions; None means `config.questions_per_clip`. Fewer come back when a clip offers no more.
        config: weights of the tasks.
    """
    config = config or MovingScenesConfig()
    n = config.questions_per_clip if n is None else n
    allowed = set(MovingTask) if tasks is None else {MovingTask.parse(t) for t in tasks}
    weights = {t: config.task_weights.get(t.value, 0.0) for t in MovingTask if t in allowed}
    open_tasks = {t: w for t, w in weights.items() if w > 0}
    questions: dict[tuple[str, str], MovingQuestion] = {}
    for _ in range(4 * n):  # some draws repeat one another in other words
        if len(questions) == n or not open_tasks:
            break
        names = list(open_tasks)
        shares = np.cumsum([open_tasks[t] for t in names])
        task = names[int((rng.random() * shares[-1] < shares).argmax())]
        question = make_moving_question(scene, rng, task)
        if question is None:
            del open_tasks[task]
        else:
            questions.setdefault((_topic(question), question.answer), question)
    return list(questions.values())


def _topic(question: MovingQuestion) -> str:
    """What tells a question from the same one in other words: its form and the kinds it names."""
    named = [word for word in normalise(question.prompt).split() if word in _NAMES]
    return " ".join([question.form, *named])


_NAMES = {form for concept in concepts_by_name().values() for form in (concept.name, concept.plural)}


def make_moving_question(scene: MovingScene, rng: np.random.Generator, task: MovingTask) -> MovingQuestion | None:
    """One question of `task`, or None when the clip offers none (a single event has no order)."""
    draft = _MAKERS[task](scene, rng)
    if draft is None:
        return None
    form, answer, fields, choices = draft
    prompt = _pick(rng, WORDINGS[form]).format(**fields)
    return MovingQuestion(task, form, prompt, answer, choices, STYLES.get(task, DEFAULT_STYLE))


_Draft = tuple[str, str, dict[str, str], tuple[str, ...]]
"""Key of the wording, answer, fields of the wording, choices."""


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _event(actor: Actor) -> str:
    return f"the {actor.concept.name} {PHRASES[actor.action]}"


def _action(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    # A thing that stands still is asked about now and then, or nobody would look.
    pool = scene.still if scene.still and rng.random() < 0.15 else scene.actors
    actor = _pick(rng, pool)
    return "action", PHRASES[actor.action], {"thing": actor.concept.name}, ()


def _actor(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    actions = [a.action for a in scene.actors]
    in_group = {a.action for a in scene.group}
    single = [a for a in scene.actors if actions.count(a.action) == 1 and a.action not in in_group]
    if not single:
        return None
    actor = _pick(rng, single)
    return "actor", actor.concept.name, {"phrase": PHRASES[actor.action]}, ()


def _order(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    n = len(scene.actors)
    if n < 2:
        return None
    forms = ("order_relation", "order_pair")
    form = _pick(rng, forms if _is_lively(scene) else ("order_first", "order_last", *forms))
    if form == "order_first":
        return form, _event(scene.actors[0]), {}, ()
    if form == "order_last":
        return form, _event(scene.actors[-1]), {}, ()
    i, j = (int(k) for k in rng.permutation(n)[:2])
    first, second = scene.actors[i], scene.actors[j]
    names = {"first": first.concept.name, "second": second.concept.name}
    if form == "order_pair":
        answer = names["first"] if i < j else names["second"]
        return form, answer, names, (names["first"], names["second"])
    fields = {
        **names,
        "first_verb": VERBS[first.action],
        "first_phrase": PHRASES[first.action],
        "second_phrase": PHRASES[second.action],
    }
    return form, "before" if i < j else "after", fields, ("before", "after")


def _counting(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    # A group is what there is to count; the others are there, or come or go.
    pool = scene.group if scene.group and rng.random() < 0.75 else scene.things
    name = _pick(rng, pool).concept.name
    at_start = rng.random() < 0.5
    count = scene.count(name, 0 if at_start else scene.n_frames - 1)
    form = "counting_start" if at_start else "counting_end"
    return form, str(count), {"things": concepts_by_name()[name].plural}, ()


def _when(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    clear = [actor for actor in scene.actors if half_of(scene, actor) is not None]
    if not clear:
        return None
    actor = _pick(rng, clear)
    answer = (FIRST_HALF, SECOND_HALF)[half_of(scene, actor) or 0]
    return "when", answer, {"thing": actor.concept.name, "verb": VERBS[actor.action]}, (FIRST_HALF, SECOND_HALF)


def half_of(scene: MovingScene, actor: Actor) -> int | None:
    """The half of the clip in which an event lies, 0 or 1; None where it is too near the middle to tell."""
    middle = (actor.begin + actor.end) / 2 / (scene.n_frames - 1)
    return None if abs(middle - 0.5) < HALF_MARGIN else int(middle >= 0.5)


def _is_lively(scene: MovingScene) -> bool:
    """Whether things of a group come or go, so that the events of the others are not all that happens."""
    return any(a.action is not Action.still for a in scene.group)


def _describing(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    if _is_lively(scene):
        return None
    return "describing", describe(scene), {}, ()


def describe(scene: MovingScene) -> str:
    """The caption that follows from the truth: every event in order. What a group does is left out."""
    text = ", then ".join(_event(a) for a in scene.actors)
    return text[0].upper() + text[1:] + "."


_KINDS: tuple[tuple[tuple[Action, ...], str, str], ...] = (
    (tuple(DIRECTIONS), "moves", "move"),
    ((Action.appear,), "appears", "appear"),
    ((Action.vanish,), "vanishes", "vanish"),
    ((Action.grow, Action.shrink), "changes size", "change size"),
    (tuple(COLOURS), "changes colour", "change colour"),
)


def _summary(scene: MovingScene, rng: np.random.Generator) -> _Draft | None:
    return "summary", summarise(scene), {}, ()


def summarise(scene: MovingScene) -> str:
    """How many things do what, in few words: `1 moves, 2 vanish`. A group counts too."""
    parts = []
    for actions, one, several in _KINDS:
        n = sum(a.action in actions for a in (*scene.actors, *scene.group))
        if n:
            parts.append(f"{n} {one if n == 1 else several}")
    return ", ".join(parts)


_MAKERS: dict[MovingTask, Callable[[MovingScene, np.random.Generator], _Draft | None]] = {
    MovingTask.action: _action,
    MovingTask.actor: _actor,
    MovingTask.order: _order,
    MovingTask.counting: _counting,
    MovingTask.when: _when,
    MovingTask.describing: _describing,
    MovingTask.summary: _summary,
}

"""What the words of a question about a clip are about: exact targets for names, actions, events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from olmo.data.scenes.moving.actors import PHRASES, Action, Actor
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.data.scenes.moving.wordings import WORDINGS
from olmo.train.tasks.inside.facets import EARLIER, MAX_COUNT, MENTIONED, ORDER, RELATION, UNKNOWN, classes
from olmo.train.tasks.inside.mentions import Known, MentionFinder, Mentions


def clip_mentions(
    finder: MentionFinder, scene: MovingScene, input_ids: Sequence[int], is_answer: Sequence[bool]
) -> torch.Tensor:
    """Classes int64 `[L, facets]` of what is asked about a clip, `UNKNOWN` where nothing is.

    Args:
        finder: of the model's tokenizer.
        scene: the clip and its truth.
        input_ids: `[L]` tokens.
        is_answer: `[L]` whether a token is one that the model has to write.
    """
    found = finder.find(_known(finder, scene), input_ids, is_answer)
    for question in found.questions:
        _relate(found, question)
    return found.classes


def _known(finder: MentionFinder, scene: MovingScene) -> Iterator[Known]:
    """Names, actions and words for events of a clip."""

    def first_token(actor: Actor) -> int:
        return finder.tokens(actor.concept.name)[0]

    for concept in {thing.concept.name: thing.concept for thing in scene.things}.values():
        of_name = _of_name(scene, concept.name)
        yield Known(concept.name, of_name, is_name=True)
        yield Known(concept.plural, of_name, is_name=True)
    for action in {actor.action for actor in scene.actors}:
        who = [actor for actor in (*scene.actors, *scene.group) if actor.action is action]
        if len({actor.concept.name for actor in who}) == 1:
            yield Known(PHRASES[action], classes(actor=first_token(who[0])))
    for form, actor in (("order_first", scene.actors[0]), ("order_last", scene.actors[-1])):
        of_event = classes(actor=first_token(actor), action=list(Action).index(actor.action))
        for wording in WORDINGS[form]:
            yield Known(wording.removesuffix("?"), of_event)


def _of_name(scene: MovingScene, name: str) -> list[int]:
    actors = [actor for actor in scene.actors if actor.concept.name == name]
    actions = {thing.action for thing in scene.things if thing.concept.name == name}
    known = {
        "count_first": min(MAX_COUNT, scene.count(name, 0)),
        "count_last": min(MAX_COUNT, scene.count(name, scene.n_frames - 1)),
    }
    if len(actions) == 1:
        known["action"] = list(Action).index(actions.pop())
    if len(actors) == 1:
        known["order"] = scene.actors.index(actors[0])
        half = half_of(scene, actors[0])
        known |= {} if half is None else {"half": half}
    return classes(**known)


def _relate(found: Mentions, question: range) -> None:
    """Notes at each name of a question how its event stands to that of the name before it, and which is earlier."""
    order, relation, earlier = (MENTIONED.index(facet) for facet in (ORDER, RELATION, EARLIER))
    known = [place for place in found.named(question) if found.classes[place, order] != UNKNOWN]
    for before, place in pairwise(known):
        first, second = found.classes[before, order], found.classes[place, order]
        if first != second:
            found.classes[place, relation] = int(first > second)
            found.classes[place, earlier] = found.names[before if first < second else place]

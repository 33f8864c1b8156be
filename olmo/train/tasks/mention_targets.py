"""What the words of a question are about: exact targets for the tokens that name a thing or an action of a clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from olmo.data.scenes.moving.actors import PHRASES, Action
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.tokenizer import Tokenizer
from olmo.train.tasks.event_targets import ACTION, HALF, ORDER, UNKNOWN, Facet

MAX_COUNT = 10
"""More of a kind than that are not told apart."""

MENTIONED = (
    ACTION,
    ORDER,
    HALF,
    Facet("count_first", MAX_COUNT + 1),
    Facet("count_last", MAX_COUNT + 1),
    Facet("actor", 0, is_name=True),
)
"""Of a name: what the thing does, as which event, in which half, and how many there are at first and at last;
of an action: the first token of the name of the one thing that does it."""

_N_OF_NAME = len(MENTIONED) - 1


class MentionTargets:
    """From a clip and the tokens of what is asked about it to classes for them.

    Args:
        tokenizer: the model's; words are found by their tokens after a space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, scene: MovingScene, input_ids: Sequence[int], is_answer: Sequence[bool]) -> torch.Tensor:
        """Classes int64 `[L, facets]` on the last token of each mention outside of answers, -100 elsewhere.

        Args:
            scene: the clip and its truth.
            input_ids: `[L]` tokens.
            is_answer: `[L]` whether a token is one that the model has to write.
        """
        ids, found = list(input_ids), torch.full((len(input_ids), len(MENTIONED)), UNKNOWN)
        length = np.zeros(len(ids), dtype=np.int64)  # of the mention that ends here; of two, the longer is meant
        for text, classes in self._known(scene):
            tokens = self.tokenizer.encode(f" {text}")
            for end in _ends(ids, tokens):
                if len(tokens) > length[end] and not is_answer[end]:
                    length[end], found[end] = len(tokens), torch.tensor(classes)
        return found

    def _known(self, scene: MovingScene) -> Iterator[tuple[str, list[int]]]:
        """Names and actions of a clip, and the classes of each."""
        for concept in {thing.concept.name: thing.concept for thing in scene.things}.values():
            of_name = _of_name(scene, concept.name)
            yield concept.name, of_name
            yield concept.plural, of_name
        for action in {actor.action for actor in scene.actors}:
            who = {actor.concept.name for actor in (*scene.actors, *scene.group) if actor.action is action}
            if len(who) == 1:
                yield PHRASES[action], [*[UNKNOWN] * _N_OF_NAME, self.tokenizer.encode(f" {who.pop()}")[0]]


def _of_name(scene: MovingScene, name: str) -> list[int]:
    things = [thing for thing in scene.things if thing.concept.name == name]
    actors = [actor for actor in scene.actors if actor.concept.name == name]
    actions = {thing.action for thing in things}
    half = half_of(scene, actors[0]) if len(actors) == 1 else None
    counts = (min(MAX_COUNT, scene.count(name, frame)) for frame in (0, scene.n_frames - 1))
    return [
        list(Action).index(actions.pop()) if len(actions) == 1 else UNKNOWN,
        scene.actors.index(actors[0]) if len(actors) == 1 else UNKNOWN,
        UNKNOWN if half is None else half,
        *counts,
        UNKNOWN,
    ]


def _ends(ids: Sequence[int], part: Sequence[int]) -> Iterator[int]:
    """Places of the last token of each `part` in `ids`."""
    n = len(part)
    for start, token in enumerate(ids):
        if token == part[0] and list(ids[start : start + n]) == list(part):
            yield start + n - 1

"""What the words of a question about a picture are about: exact targets for tokens that name a thing, or a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from olmo.data.scenes.art import concepts
from olmo.data.scenes.scene import Scene
from olmo.data.scenes.wordings import WORDINGS
from olmo.train.tasks.inside.facets import MAX_COUNT, MENTIONED, N_BINS, SIDE, classes
from olmo.train.tasks.inside.mentions import Known, MentionFinder, Mentions

_EXTREMES = {"naming_left": (0, 1), "naming_right": (0, -1), "naming_top": (1, 1), "naming_bottom": (1, -1)}
"""Axis and sign of the least of each."""


def scene_mentions(
    finder: MentionFinder, scene: Scene, input_ids: Sequence[int], is_answer: Sequence[bool]
) -> torch.Tensor:
    """Classes int64 `[L, facets]` of what is asked about a picture, `UNKNOWN` where nothing is.

    Args:
        finder: of the model's tokenizer.
        scene: the picture and its truth.
        input_ids: `[L]` tokens.
        is_answer: `[L]` whether a token is one that the model has to write.
    """
    found = finder.find(_known(finder, scene), input_ids, is_answer)
    sides = {finder.tokens(word)[0]: number for number, word in enumerate(SIDE.words)}
    for question in found.questions:
        _compare(found, question, input_ids[question.stop], sides)
    return found.classes


def _known(finder: MentionFinder, scene: Scene) -> Iterator[Known]:
    """Names of things, those that are not there among them, and words for the far ends."""
    for concept in concepts(scene.concept_set):
        of_name = _of_name(scene, concept.name)
        yield Known(concept.name, of_name, is_name=True)
        yield Known(concept.plural, of_name, is_name=True)
    for form, (axis, sign) in _EXTREMES.items():
        name = min(scene.objects, key=lambda thing: sign * thing.centre[axis]).concept.name
        for wording in WORDINGS[form]:
            yield Known(wording.rstrip("?."), classes(actor=finder.tokens(name)[0]))


def _of_name(scene: Scene, name: str) -> list[int]:
    things = scene.of(name)
    if len(things) != 1:
        return classes(count=min(MAX_COUNT, len(things)))
    height, width = scene.object_map.shape
    x, y = things[0].centre
    return classes(count=1, across=x * N_BINS // width, along=y * N_BINS // height)


def _compare(found: Mentions, question: range, answer: int, sides: dict[int, int]) -> None:
    """Notes at the second of two names the side that the answer names."""
    named = found.named(question)
    if answer in sides and len({found.names[i] for i in named}) == 2:
        found.classes[named[-1], MENTIONED.index(SIDE)] = sides[answer]

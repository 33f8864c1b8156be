"""Words of a question about a picture: what is known of what they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from olmo.data.scenes import make_scene
from olmo.data.scenes.questions import make_question
from olmo.data.scenes.scene import Scene
from olmo.data.scenes.scenes_config import ScenesConfig, Task
from olmo.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer
from olmo.train.tasks.inside.facets import MENTIONED, N_BINS, SIDE, UNKNOWN
from olmo.train.tasks.inside.mentions import MentionFinder
from olmo.train.tasks.inside.scene_mentions import scene_mentions

WIDE = Path(__file__).resolve().parents[3] / "configs" / "molmo-nano-wide" / "tokenizer.json"
FACETS = [facet.name for facet in MENTIONED]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TokenizerConfig(identifier=str(WIDE)), 1824)


def known(tokenizer: Tokenizer, scene: Scene, text: str, answer: str) -> list[dict[str, int]]:
    """What is known at each mention in a question, and at its end, in order."""
    asked, answered = tokenizer.encode(text), tokenizer.encode(answer)
    is_answer = [False] * len(asked) + [True] * len(answered)
    found = scene_mentions(MentionFinder(tokenizer), scene, [*asked, *answered], is_answer).tolist()
    rows = [dict(zip(FACETS, row, strict=True)) for row in found]
    assert all(set(row.values()) == {UNKNOWN} for row in rows[len(asked) :]), "answers know nothing"
    return [{k: v for k, v in row.items() if v != UNKNOWN} for row in rows if set(row.values()) != {UNKNOWN}]


def scene_with(holds: Callable[[Scene], bool]) -> Scene:
    return next(scene for scene in map(make_scene, range(500)) if holds(scene))


def test_a_name_knows_how_many_there_are(tokenizer: Tokenizer) -> None:
    scene = scene_with(lambda s: max(s.counts().values()) >= 3)
    name, count = max(scene.counts().items(), key=lambda item: item[1])
    concept = scene.of(name)[0].concept
    at_name, at_end = known(tokenizer, scene, f" How many {concept.plural} are there? Assistant:", f" {count}")
    assert at_name == {"count": count}
    assert at_end == {"subject": tokenizer.encode(f" {concept.plural}")[0]}


def test_what_is_not_there_is_none(tokenizer: Tokenizer) -> None:
    scene = make_scene(3, ScenesConfig())
    absent = next(name for name in ("dog", "cat", "fox") if name not in scene.counts())
    assert {"count": 0} in known(tokenizer, scene, f" Point to the {absent}.", " none")


def test_the_only_one_knows_where_it_is(tokenizer: Tokenizer) -> None:
    scene = scene_with(lambda s: 1 in s.counts().values() and s.word is None)
    thing = next(scene.of(name)[0] for name, count in scene.counts().items() if count == 1)
    (at_name, *_) = known(tokenizer, scene, f" Point to the {thing.concept.name}.", " here")
    side = scene.object_map.shape[0]
    assert at_name["count"] == 1
    for axis, name in enumerate(("across", "along")):
        assert at_name[name] / N_BINS <= thing.centre[axis] / side < (at_name[name] + 1) / N_BINS


def test_the_second_name_knows_the_side_that_is_asked_for(tokenizer: Tokenizer) -> None:
    rng, seen = np.random.default_rng(0), set()
    for seed in range(60):
        scene = make_scene(seed)
        question = make_question(scene, rng, Task.position)
        if question is None:
            continue
        rows = known(tokenizer, scene, f" {question.prompt} Assistant:", f" {question.answer}")
        sides = [row["side"] for row in rows if "side" in row]
        assert [SIDE.words[side] for side in sides] == [question.answer]
        assert "side" in [row for row in rows if "count" in row][-1], "of the names, the last one knows it"
        assert not any("subject" in row for row in rows), "two things are asked about"
        seen.add(question.answer)
    assert seen == set(SIDE.words)


@pytest.mark.parametrize(("form", "axis", "sign"), [("far left", 0, 1), ("far right", 0, -1), ("top", 1, 1)])
def test_a_far_end_knows_what_is_there(tokenizer: Tokenizer, form: str, axis: int, sign: int) -> None:
    scene = scene_with(lambda s: len(s.counts()) > 2)
    name = min(scene.objects, key=lambda thing: sign * thing.centre[axis]).concept.name
    text = f" What is at the {form}? Assistant:"
    assert known(tokenizer, scene, text, f" {name}") == [{"actor": tokenizer.encode(f" {name}")[0]}]

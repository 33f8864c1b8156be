"""Words of a question about a clip: where they are found, and what is known of what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.data.scenes.moving import make_moving_scene
from olmo.data.scenes.moving.actors import PHRASES, Action
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer
from olmo.train.tasks.event_targets import UNKNOWN
from olmo.train.tasks.mention_targets import MENTIONED, MentionTargets

WIDE = Path(__file__).resolve().parents[3] / "configs" / "molmo-nano-wide" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TokenizerConfig(identifier=str(WIDE)), 1824)


def known(tokenizer: Tokenizer, scene: MovingScene, text: str, answer: str = "") -> dict[str, dict[str, int]]:
    """What is known by the text up to and with each mention."""
    asked, answered = tokenizer.encode(text), tokenizer.encode(answer) if answer else []
    ids = [*asked, *answered]
    found = MentionTargets(tokenizer)(scene, ids, [False] * len(asked) + [True] * len(answered)).tolist()
    names = [facet.name for facet in MENTIONED]
    rows = {i: dict(zip(names, row, strict=True)) for i, row in enumerate(found) if set(row) != {UNKNOWN}}
    return {tokenizer.decode(ids[: i + 1]): {k: v for k, v in row.items() if v != UNKNOWN} for i, row in rows.items()}


def lively() -> MovingScene:
    """A clip of three events, of which the first lies in the first half."""
    scenes = (make_moving_scene(seed) for seed in range(200))
    return next(s for s in scenes if len(s.actors) == 3 and half_of(s, s.actors[0]) == 0)


def test_names_know_what_the_thing_does_and_when(tokenizer: Tokenizer) -> None:
    scene = lively()
    first, last = scene.actors[0], scene.actors[2]
    text = f"Which comes first, the {first.concept.name} or the {last.concept.name}?"
    found = known(tokenizer, scene, text)
    assert list(found) == [text[: text.index(" or")], text[:-1]]
    of_first, of_last = found.values()
    assert of_first["action"] == list(Action).index(first.action)
    assert (of_first["order"], of_last["order"], of_first["half"]) == (0, 2, 0)
    assert of_first["count_first"] == scene.count(first.concept.name, 0)
    assert of_last["count_last"] == scene.count(last.concept.name, scene.n_frames - 1)


def test_actions_know_who_does_it(tokenizer: Tokenizer) -> None:
    scenes = (make_moving_scene(seed) for seed in range(100))
    scene = next(s for s in scenes if not s.group and len({a.action for a in s.actors}) == len(s.actors) > 1)
    for actor in scene.actors:
        found = known(tokenizer, scene, f"Which thing {PHRASES[actor.action]}?")
        assert list(found.values()) == [{"actor": tokenizer.encode(f" {actor.concept.name}")[0]}]


def test_what_two_do_is_no_ones(tokenizer: Tokenizer) -> None:
    scenes = (make_moving_scene(seed) for seed in range(500))
    scene = next(s for s in scenes if not s.group and len({a.action for a in s.actors}) < len(s.actors))
    twice = next(a.action for a in scene.actors if sum(b.action is a.action for b in scene.actors) > 1)
    assert known(tokenizer, scene, f"Which thing {PHRASES[twice]}?") == {}


def test_groups_are_counted_and_have_no_place_in_the_order(tokenizer: Tokenizer) -> None:
    scene = next(s for s in map(make_moving_scene, range(100)) if s.group)
    concept = scene.group[0].concept
    (found,) = known(tokenizer, scene, f"How many {concept.plural} are there?").values()
    assert found["count_first"] == scene.count(concept.name, 0) and "order" not in found and "half" not in found


def test_answers_and_other_words_have_nothing(tokenizer: Tokenizer) -> None:
    scene = lively()
    assert known(tokenizer, scene, "What happens first?", f" the {scene.actors[0].concept.name} moves") == {}

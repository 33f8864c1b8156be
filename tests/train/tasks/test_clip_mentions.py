"""Words of a question about a clip: where they are found, and what is known of what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.data.scenes.moving import make_moving_scene
from olmo.data.scenes.moving.actors import PHRASES, Action
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.moving.questions import half_of
from olmo.data.scenes.moving.wordings import WORDINGS
from olmo.tokenizer import Tokenizer, TokenizerConfig, build_tokenizer
from olmo.train.tasks.inside.clip_mentions import clip_mentions
from olmo.train.tasks.inside.facets import MENTIONED, RELATION, SUBJECT, UNKNOWN
from olmo.train.tasks.inside.mentions import MentionFinder

WIDE = Path(__file__).resolve().parents[3] / "configs" / "molmo-nano-wide" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TokenizerConfig(identifier=str(WIDE)), 1824)


def known(tokenizer: Tokenizer, scene: MovingScene, text: str, answer: str = "") -> dict[str, dict[str, int]]:
    """What is known by the text up to and with each mention."""
    asked, answered = tokenizer.encode(text), tokenizer.encode(answer) if answer else []
    ids, is_answer = [*asked, *answered], [False] * len(asked) + [True] * len(answered)
    found = clip_mentions(MentionFinder(tokenizer), scene, ids, is_answer).tolist()
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


def test_the_second_of_two_names_knows_how_they_stand(tokenizer: Tokenizer) -> None:
    scene = lively()
    first, last = (actor.concept.name for actor in (scene.actors[0], scene.actors[2]))
    for earlier, later, class_ in ((first, last, 0), (last, first, 1)):
        found = known(tokenizer, scene, f"Which comes first, the {earlier} or the {later}?", f" {first}")
        of_earlier, of_later = found.values()
        assert not {"relation", "earlier"} & set(of_earlier)
        assert (of_later["relation"], of_later["earlier"]) == (class_, tokenizer.encode(f" {first}")[0])
    same = known(tokenizer, scene, f"Which comes first, the {first} or the {first}?", f" {first}")
    assert same and all("relation" not in classes for classes in same.values())


def test_an_answer_parts_questions(tokenizer: Tokenizer) -> None:
    scene = lively()
    first, last = (actor.concept.name for actor in (scene.actors[0], scene.actors[2]))
    parts = [tokenizer.encode(text) for text in (f" the {first}?", " yes", f" the {last}?", " no")]
    ids = [token for part in parts for token in part]
    is_answer = [number % 2 == 1 for number, part in enumerate(parts) for _ in part]
    found = clip_mentions(MentionFinder(tokenizer), scene, ids, is_answer)
    assert (found[:, MENTIONED.index(RELATION)] == UNKNOWN).all()
    subjects = found[:, MENTIONED.index(SUBJECT)]
    assert subjects[subjects != UNKNOWN].tolist() == [tokenizer.encode(f" {name}")[0] for name in (first, last)]


def test_the_end_of_a_question_knows_the_one_thing_it_is_about(tokenizer: Tokenizer) -> None:
    scene = lively()
    first, last = (actor.concept.name for actor in (scene.actors[0], scene.actors[2]))
    token = tokenizer.encode(f" {first}")[0]
    for text, subject in (
        (f"What does the {first} do? Assistant:", {"subject": token}),
        (f"Does the {first} act, or the {first}? Assistant:", {"subject": token}),
        (f"Which acts first, the {first} or the {last}? Assistant:", None),
        ("Describe the clip. Assistant:", None),
    ):
        assert known(tokenizer, scene, text, " what it does").get(text) == subject, text


@pytest.mark.parametrize(("form", "place"), [("order_first", 0), ("order_last", -1)])
def test_words_for_an_event_know_it(tokenizer: Tokenizer, form: str, place: int) -> None:
    scene = lively()
    actor = scene.actors[place]
    wanted = {"action": list(Action).index(actor.action), "actor": tokenizer.encode(f" {actor.concept.name}")[0]}
    for wording in WORDINGS[form]:
        assert list(known(tokenizer, scene, f" {wording}").values()) == [wanted], wording

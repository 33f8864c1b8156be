"""Texts that the formatter writes: role words, spaces, prefixes, derived answers."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.messages import parse_example
from olmo.preprocessing.prompts import LONG_CAPTION_PROMPTS, POINTING_PROMPTS


def pieces(example, *, rng=None, for_inference=False, size=(200, 100), **fields):
    formatter = DataFormatter(**fields)
    return formatter.format_conversations(parse_example(example).conversations, size, rng, for_inference)


def first(example, **kwargs):
    return [tuple(p) for p in pieces(example, **kwargs)[0]]


def ask(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]


def test_inference_text_of_the_released_processor():
    assert first({"prompt": "Describe this image."}, for_inference=True) == [
        (" User: Describe this image. Assistant:", False)
    ]


def test_turns_alternate_and_all_begin_with_a_space():
    assert first({"messages": ask("a", "b", "c", "d")}) == [
        (" User: a Assistant:", False),
        (" b", True),
        (" User: c Assistant:", False),
        (" d", True),
    ]


def test_the_first_space_can_be_left_out():
    assert first({"messages": ask("a", "b")}, always_start_with_space=False)[0] == ("User: a Assistant:", False)
    assert first({"messages": ask("a", "b")}, always_start_with_space=False)[1] == (" b", True)


def test_without_role_words():
    assert first({"messages": ask("a", "b", "c")}, message_format="none", for_inference=True) == [
        (" a", False),
        (" b", True),
        (" c", False),
    ]
    assert first({"text": "A dog."}, message_format="none", system_prompt="none") == [(" A dog.", True)]


@pytest.mark.parametrize(
    ("system_prompt", "style", "expected"),
    [
        ("none", "vqa2", "q"),
        ("style", "vqa2", "vqa2: q"),
        ("style", "demo", "demo: q"),
        ("style", None, "q"),
        ("style_and_length", "long_caption", "long_caption 65: q"),
        ("demo_or_style", "vqa2", "vqa2: q"),
        ("demo_or_style", "eval_short_answer", "vqa2: q"),
        ("demo_or_style", "my_style", "my_style: q"),
        ("demo_or_style", "long_caption", "q"),
        ("demo_or_style", "demo", "q"),
        ("demo_or_style", "android_control", "q"),
        ("demo_or_style", None, "q"),
    ],
)
def test_prefix_at_inference(system_prompt, style, expected):
    written = first({"prompt": "q", "style": style}, system_prompt=system_prompt, for_inference=True)
    assert written == [(f" User: {expected} Assistant:", False)]


def test_caption_prompt_of_pretraining():
    fields = {"prompt_templates": "none", "message_format": "none", "system_prompt": "style_and_length"}
    example = {"style": "long_caption", "text": "x" * 310}
    assert first(example, **fields) == [(" long_caption 20:", False), (" " + "x" * 310, True)]
    example.pop("text")
    assert first(example, for_inference=True, **fields) == [(" long_caption 65:", False)]
    assert first(example, for_inference=True, default_inference_len=None, **fields) == [(" long_caption :", False)]


def test_length_hint_follows_the_answer_in_training():
    rng = np.random.default_rng(0)
    fields = {"prompt_templates": "none", "message_format": "none", "system_prompt": "style_and_length"}
    hints = [
        first({"style": "s", "text": "x" * 300}, rng=rng, **fields)[0][0].removeprefix(" s ").removesuffix(":")
        for _ in range(2000)
    ]
    assert 0.07 < np.mean([h == "" for h in hints]) < 0.13
    numbers = np.array([int(h) for h in hints if h])
    assert abs(numbers.mean() - 300 / 15 + 0.5) < 0.2
    assert abs(numbers.std() - 25 / 15) < 0.2
    short = [first({"style": "s", "text": "x"}, rng=rng, **fields)[0][0] for _ in range(100)]
    assert not any("-" in hint for hint in short)


def test_demo_styles_are_named_one_time_in_ten_in_training():
    rng = np.random.default_rng(1)
    example = {"style": "user_qa", "question": "q", "answer": "a"}
    named = [first(example, rng=rng)[0][0] == " User: user_qa: q Assistant:" for _ in range(2000)]
    assert 0.07 < np.mean(named) < 0.13
    always = [first({**example, "style": "vqa2"}, rng=rng)[0][0] for _ in range(20)]
    assert set(always) == {" User: vqa2: q Assistant:"}


def test_templates_stand_in_for_a_missing_question():
    rng = np.random.default_rng(2)
    asked = {first({"style": "long_caption", "text": "t"}, rng=rng, system_prompt="none")[0][0] for _ in range(200)}
    assert asked == {f" User: {w} Assistant:" for w in LONG_CAPTION_PROMPTS}
    own = first({"style": "long_caption", "question": "What?", "text": "t"}, rng=rng, system_prompt="none")
    assert own[0][0] == " User: What? Assistant:"
    plain = first({"style": "pointing", "label": "Cat", "points": []}, prompt_templates="none")
    assert plain[0][0] == " User: Cat Assistant:"


def test_inference_draws_nothing():
    example = {"style": "pointing", "label": "the cat"}
    rng = np.random.default_rng(3)
    state = rng.bit_generator.state
    written = first(example, rng=rng, for_inference=True)
    assert written == [(f" User: {POINTING_PROMPTS[0].replace('{label}', 'the cat')} Assistant:", False)]
    assert rng.bit_generator.state == state


def test_point_answers():
    example = {"style": "pointing", "label": "Red Ball", "points": [(150, 25), (20, 50)]}
    tag = '<points x1="10.0" y1="50.0" x2="75.0" y2="25.0" alt="red ball">red ball</points>'
    assert first(example)[1] == (f" {tag}", True)
    assert first({**example, "style": "point_count"})[1][0] == f" Counting the {tag} shows a total of 2."
    assert first({**example, "points": []})[1][0] == " There are none."
    percent = {**example, "points": [(7.5, 2.5)], "point_scale": 10}
    assert first(percent, size=None)[1][0] == ' <point x="75.0" y="25.0" alt="red ball">red ball</point>'
    asked = {"style": "pointing", "question": "Where is it?", "points": [(0, 0)]}
    assert 'alt="Where is it?"' in first(asked)[1][0]
    with pytest.raises(OLMoInputError, match="'points' in pixels need a picture"):
        first(example, size=None)
    with pytest.raises(OLMoInputError, match="0 to 100"):
        first({**example, "points": [(201, 0)]})


def test_multiple_choice():
    example = {"question": "Which?", "options": ["red", "blue"], "answer_idx": 1, "style": "a_okvqa_mc"}
    assert first(example) == [(" User: a_okvqa_mc: Which?\nA: red\nB: blue\n Assistant:", False), (" B", True)]
    with pytest.raises(OLMoInputError, match="at most 26 'options'"):
        first({"question": "?", "options": ["x"] * 27, "answer_idx": 0})


def test_most_frequent_vote_wins_and_ties_are_drawn():
    votes = {"question": "?", "answers": ["no", "yes", "yes", "maybe"]}
    assert first(votes)[1][0] == " yes"
    tie = {"question": "?", "answers": ["no", "yes", "yes", "no", "maybe"]}
    rng = np.random.default_rng(4)
    assert {first(tie, rng=rng)[1][0] for _ in range(50)} == {" no", " yes"}
    assert first(tie)[1][0] == " no"


def test_order_of_conversations_is_drawn_only_when_asked():
    example = {"message_list": [ask(str(i), "a") for i in range(6)]}
    plain = pieces(example, rng=np.random.default_rng(0))
    shuffled = pieces(example, rng=np.random.default_rng(0), shuffle_messages=True)
    assert plain != shuffled and sorted(plain) == sorted(shuffled)
    assert pieces(example, shuffle_messages=True) == plain


def test_loss_weight():
    assert DataFormatter().loss_weight(1) == 1.0
    assert DataFormatter().loss_weight(4) == 0.5
    assert DataFormatter(loss_token_weighting="none").loss_weight(4) == 1.0


@pytest.mark.parametrize(
    ("example", "for_inference", "words"),
    [
        ({"messages": ask("a", "b")}, True, "the last message is the assistant's, so there is nothing to answer"),
        ({"messages": ask("a")}, False, "nothing to learn from: the last message is the user's"),
        ({"message_list": [ask("a"), ask("b")]}, True, "one conversation at a time, got 2"),
        ({"style": "pointing"}, True, "needs a question or a 'label'"),
    ],
)
def test_mistakes_are_explained(example, for_inference, words):
    with pytest.raises(OLMoInputError, match=words):
        pieces(example, for_inference=for_inference)


def test_empty_prompt_is_refused_only_where_nothing_is_asked():
    with pytest.raises(OLMoInputError, match="prompt_templates=none, system_prompt=demo_or_style"):
        pieces({"style": "long_caption"}, for_inference=True, prompt_templates="none")
    assert first({"style": "vqa2"}, for_inference=True) == [(" User: vqa2: Assistant:", False)]


def test_configuration():
    formatter = DataFormatter.new(prompt_templates="uber-model", system_prompt="style_and_length")
    assert DataFormatter.from_dict(formatter.asdict()) == formatter
    with pytest.raises(OLMoConfigurationError, match=r"message_format: 'roles' is not one of 'none', 'role'"):
        DataFormatter(message_format="roles")
    with pytest.raises(OLMoConfigurationError, match="default_inference_len: must be >= 0"):
        DataFormatter(default_inference_len=-1)

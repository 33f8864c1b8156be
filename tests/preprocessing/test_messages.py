"""Accepted forms of an example, and what is said about the others."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.messages import Message, Role, parse_example

A, B = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
TEXT = {"type": "text", "text": "hi"}


def user(content="hi"):
    return {"role": "user", "content": content}


def assistant(content="yes"):
    return {"role": "assistant", "content": content}


def texts(example):
    return [[(m.role.value, m.text) for m in c.messages] for c in parse_example(example).conversations]


@pytest.mark.parametrize(
    "example",
    [
        {"image": A, "messages": [user()]},
        {"images": [A], "messages": [user()]},
        {"image": A, "prompt": "hi"},
        {"image": A, "question": "hi"},
        {"image": A, "messages": [user([{"type": "image"}, {"type": "text", "text": "hi"}])]},
        {"messages": [user([{"type": "text", "text": "hi"}, {"type": "image", "image": A}])]},
        {"image": A, "message_list": [[user()]]},
        {"image": A, "message_list": [{"messages": [user()]}]},
    ],
)
def test_forms_of_one_question(example):
    assert texts(example) == [[("user", "hi")]]
    assert len(parse_example(example).images) == 1


def test_text_only():
    parsed = parse_example({"messages": [user()]})
    assert parsed.images == () and parsed.weight == 1.0 and parsed.metadata == {}
    assert parse_example({"image": None, "images": None, "prompt": "hi"}).images == ()
    assert parse_example({"images": [], "prompt": "hi"}).images == ()


def test_pictures_keep_their_order():
    example = {
        "images": [A, B],
        "messages": [user([{"type": "image"}, {"type": "text", "text": "x"}, {"type": "image"}])],
    }
    assert parse_example(example).images[1] is B
    inline = [{"type": "image", "image": B}, {"type": "text", "text": "x"}, {"type": "image", "path": "a.png"}]
    images = parse_example({"messages": [user(inline), assistant(), user()]}).images
    assert images[0] is B and images[1] == "a.png"


def test_text_parts_are_joined_by_a_space():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " "}, {"type": "text", "text": "two"}]
    assert texts({"messages": [user(parts)]}) == [[("user", "one two")]]


def test_text_is_kept_as_it_is():
    assert texts({"prompt": "  two\nlines "}) == [[("user", "  two\nlines ")]]


def test_record_with_an_answer():
    expected = [[("user", "q"), ("assistant", "a")]]
    assert texts({"question": "q", "answer": "a"}) == expected
    assert texts({"prompt": "q", "text": "a", "style": "vqa2"}) == expected
    assert texts({"text": "a caption"}) == [[("user", ""), ("assistant", "a caption")]]
    assert texts({"style": "long_caption"}) == [[("user", "")]]


def test_message_list_and_styles():
    parsed = parse_example(
        {
            "image": A,
            "style": "vqa2",
            "message_list": [[user(), assistant()], {"question": "q", "answer": "a", "style": "eval_multiple_choice"}],
        }
    )
    assert [c.style for c in parsed.conversations] == ["vqa2", "a_okvqa_mc"]
    parsed = parse_example({"message_list": [[user()], [user()]], "styles": ["user_qa", None]})
    assert [c.style for c in parsed.conversations] == ["user_qa", None]


def test_points_and_choices():
    record = {"style": "pointing", "label": "cat", "points": [{"x": 1, "y": 2}, (3, 4.5)], "point_scale": 100}
    conversation = parse_example(record).conversations[0]
    assert conversation.points == ((1.0, 2.0), (3.0, 4.5)) and conversation.point_scale == 100.0
    assert conversation.has_target and conversation.messages == (Message(Role.user, ""),)
    assert parse_example({**record, "points": np.array([[1, 2]])}).conversations[0].points == ((1.0, 2.0),)
    assert parse_example({**record, "points": []}).conversations[0].has_target
    choice = parse_example({"question": "q", "options": ["x", "y"], "answer_idx": 1}).conversations[0]
    assert choice.options == ("x", "y") and choice.answer_idx == 1


def test_weight_and_metadata_pass():
    parsed = parse_example({"prompt": "x", "weight": 2, "metadata": {"id": 7}})
    assert parsed.weight == 2.0 and parsed.metadata == {"id": 7}


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("hi", "an example is a dict, got str"),
        ({}, r"no messages in the example \(its keys: none\)"),
        ({"image": A, "mesages": []}, r"no messages in the example \(its keys: image, mesages\)"),
        ({"messages": []}, "'messages' is a non-empty list"),
        ({"messages": "hi"}, "pass a plain string as 'prompt'"),
        ({"messages": user()}, "'messages' is a non-empty list"),
        ({"messages": ["hi"]}, r"messages\[0\] is a dict with 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] is a dict with 'role' and 'content'"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            r"messages\[0\].role is 'user' or 'assistant', got 'robot'",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "put instructions into the first user message"),
        ({"messages": [{"role": [], "content": "x"}]}, "is 'user' or 'assistant'"),
        ({"messages": [assistant()]}, r"messages\[0\] is the assistant's, but roles alternate and the user begins"),
        ({"messages": [user(), user()]}, r"messages\[1\] is the user's.*expected 'assistant'"),
        ({"messages": [user(" ")]}, r"empty prompt in messages\[0\]"),
        ({"messages": [user([{"type": "image", "image": A}])]}, "empty prompt"),
        ({"prompt": ""}, "empty prompt"),
        ({"messages": [user(), assistant(), user("")], "style": "vqa2"}, r"empty prompt in messages\[2\]"),
        ({"messages": [user(), assistant("")]}, "assistant's text is empty"),
        ({"messages": [user(3)]}, "a string or a list of parts, got int"),
        ({"messages": [user([{"type": "video", "video": "x"}])]}, "is a video; this model reads pictures"),
        ({"video": "x.mp4", "prompt": "x"}, "use a VideoOlmo model"),
        ({"messages": [user(["hi"])]}, "part 0 of messages"),
        ({"messages": [user([{"type": "audio"}])]}, "part 0 of messages"),
        ({"messages": [user([{"type": "image", "url": "http://x"}])]}, "not fetched from the network"),
        ({"messages": [user(), assistant([{"type": "image", "image": A}])]}, "only the user sends pictures"),
        ({"messages": [user([{"type": "image"}, TEXT])]}, "mention 1 pictures .* but 0 are given"),
        (
            {"image": A, "messages": [user([{"type": "image", "image": A}, TEXT])]},
            "both inside the messages and beside",
        ),
        ({"image": A, "images": [A], "prompt": "x"}, "not both"),
        ({"image": [A], "prompt": "x"}, "pass a list of them as 'images'"),
        ({"images": A, "prompt": "x"}, "'images' is a list of pictures, got ndarray"),
        ({"images": [None], "prompt": "x"}, r"images\[0\] is None"),
        ({"prompt": "x", "messages": [user()]}, "'messages' and 'prompt' overlap"),
        ({"messages": [user()], "answer": "x"}, "'messages' and 'answer' overlap"),
        ({"answer": "x", "text": "x"}, "'answer' and 'text' overlap"),
        ({"message_list": []}, "'message_list' is a non-empty list"),
        ({"message_list": [[user()]], "prompt": "x"}, "prompt beside it has no place"),
        ({"message_list": [{"prompt": "x", "image": A}]}, "share the example's pictures"),
        ({"message_list": [[user()]], "styles": ["a", "b"]}, "one name for each of the 1 conversations"),
        ({"prompt": "x", "styles": ["a"]}, "'styles' goes with 'message_list'"),
        ({"prompt": "x", "points": [(1, 2)]}, "'points' need style point_count or pointing, got None"),
        ({"style": "pointing", "label": "a", "points": [1]}, r"list of \(x, y\) pairs"),
        ({"style": "pointing", "label": "a", "points": [(float("nan"), 1)]}, "finite"),
        ({"style": "pointing", "label": "a", "points": [], "answer": "x"}, "the answer is given twice"),
        ({"style": "pointing", "label": "a", "points": [], "point_scale": 0}, "100 for percent"),
        ({"style": "pointing", "label": ""}, "'label' is a non-empty string"),
        ({"question": "x", "answers": "yes"}, "'answers' is a non-empty list of strings"),
        ({"question": "x", "options": ["a"], "answer_idx": 1}, "index into the 1 'options', got 1"),
        ({"prompt": "x", "weight": -1}, "'weight' is a number >= 0"),
        ({"prompt": "x", "metadata": 3}, "'metadata' is a dict"),
    ],
)
def test_mistakes_are_explained(example, words):
    with pytest.raises(OLMoInputError, match=words):
        parse_example(example)

from __future__ import annotations

import json
from typing import Any

import pytest
from local_server import question

from olmo.serve.errors import ApiError
from olmo.serve.protocol import ChatRequest, read_request


def read(**changes: Any) -> ChatRequest:
    return read_request(json.dumps({**question(), **changes}).encode())


def refused(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_request(body)
    assert caught.value.status == 400
    return caught.value


def test_settings_become_those_of_generate() -> None:
    assert read().generation() == {"stop_strings": (), "do_sample": False}
    assert read(temperature=0, n=2).generation()["do_sample"] is False
    drawn = read(temperature=0.5, top_p=0.9, seed=-1, stop="a")
    assert drawn.generation() == {
        "stop_strings": ("a",), "do_sample": True, "temperature": 0.5, "top_p": 0.9, "seed": 2**62 - 1,
    }  # fmt: skip
    assert read(top_p=0.5).generation()["temperature"] == 1.0
    assert read(n=2).is_drawn, "several answers are to differ"
    assert read(stop=["a", "b"], selection_ratio=0.5).generation()["selection_ratio"] == 0.5
    assert read(max_tokens=None, max_completion_tokens=7).wanted_tokens == 7
    assert read(logprobs=True).n_top_log_probs == 0 and read(logprobs=True, top_logprobs=3).n_top_log_probs == 3


def test_what_changes_no_answer_is_taken() -> None:
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "frequency_penalty": 0, "presence_penalty": 0.0,
        "logit_bias": {}, "tools": [], "tool_choice": "none", "service_tier": "auto", "modalities": ["text"],
    }  # fmt: skip
    assert read(**harmless).generation() == read().generation()


@pytest.mark.parametrize("unknown", [
    {"min_p": 0.1}, {"guided_regex": ".*"}, {"tools": [{"type": "function"}]}, {"frequency_penalty": 0.5},
    {"logit_bias": {"1": 5}}, {"functions": []}, {"reasoning_effort": "high"}, {"auto_map": {}},
    {"chat_template": "{{ x }}"}, {"trust_remote_code": True}, {"mm_processor_kwargs": {}},
    {"prompt_embeds": "gASV"}, {"multi_modal_data": {}},
])  # fmt: skip
def test_fields_that_would_change_the_answer_are_refused(unknown: dict[str, Any]) -> None:
    error = refused(json.dumps({**question(), **unknown}).encode())
    assert next(iter(unknown)) in str(error)


@pytest.mark.parametrize(("changes", "match"), [
    ({"temperature": 3}, "temperature"), ({"temperature": "0.5"}, "temperature"), ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n:"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 2**70}, "max_tokens"),
    ({"seed": 2**63}, "seed"), ({"stop": ""}, "stop"), ({"stop": ["a"] * 5}, "stop"), ({"stream": "yes"}, "stream"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "mean the same"), ({"top_logprobs": 2}, "logprobs=true"),
    ({"stream_options": {"include_usage": True}}, "stream=true"), ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}]}, "no system messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]}]},
     "detail"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "text"),
    ({"selection_ratio": 0}, "selection_ratio"), ({"response_format": {"type": "grammar"}}, "response_format"),
])  # fmt: skip
def test_wrong_values_name_their_field(changes: dict[str, Any], match: str) -> None:
    assert match in str(refused(json.dumps({**question(), **changes}).encode()))


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": "tiny", "messages": 1}', b"[" * 100_000,
    b'{"a":' * 50_000, b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
])  # fmt: skip
def test_bodies_that_are_no_request(body: bytes) -> None:
    """Deep nesting, half characters and numbers that are none among them."""
    refused(body)


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    assert "values" in str(refused(b'{"messages":[' + b"1," * 400_000 + b"1]}"))


def test_messages_of_errors_are_short() -> None:
    assert len(str(refused(json.dumps({**question(), "x" * 10_000: 1}).encode()))) < 700


def test_answers_can_be_sent_back() -> None:
    answer = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "tool_calls": None}
    messages = [{"role": "user", "content": "a"}, answer, {"role": "user", "content": "b"}]
    assert [turn.role for turn in read(messages=messages).messages] == ["user", "assistant", "user"]

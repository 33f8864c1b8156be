"""The official client, as a program would use it, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from local_server import LocalServer, data_url, picture_bytes, serving

from olmo.models.molmo.molmo import Molmo

KEY = "a-key-of-many-letters"


@pytest.fixture(scope="module")
def served(model: Molmo) -> Iterator[LocalServer]:
    with serving(model, KEY) as server:
        yield server


@pytest.fixture
def client(served: LocalServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.base}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def messages(*urls: str) -> list[dict[str, object]]:
    pictures = [{"type": "image_url", "image_url": {"url": url, "detail": "auto"}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, *pictures]}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "molmo"


def test_an_answer_about_pictures_and_a_second_turn(client: openai.OpenAI) -> None:
    asked = messages(data_url(picture_bytes()), data_url(picture_bytes(kind="JPEG"), "image/jpeg"))
    first = client.chat.completions.create(model="tiny", messages=asked, max_completion_tokens=5, user="me")
    answer = first.choices[0].message
    assert answer.content and first.usage is not None and first.usage.completion_tokens <= 5
    again = [*asked, answer, {"role": "user", "content": "and now?"}]
    second = client.chat.completions.create(model="tiny", messages=again, max_tokens=5)
    assert second.usage is not None and second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_stream(client: openai.OpenAI) -> None:
    settings = {"model": "tiny", "messages": messages(), "max_tokens": 9, "seed": 4, "temperature": 0.7, "top_p": 0.9}
    whole = client.chat.completions.create(**settings)
    with client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage


def test_json_and_log_probabilities(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=messages(), max_tokens=30, response_format=wanted, logprobs=True, top_logprobs=1
    ).choices[0]
    assert set(json.loads(answer.message.content or "")) == {"a"}
    assert answer.logprobs is not None and answer.logprobs.content
    assert "".join(token.token for token in answer.logprobs.content) == answer.message.content


def test_errors_are_those_of_the_client(client: openai.OpenAI, served: LocalServer) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="gpt-4o", messages=messages())
    with pytest.raises(openai.BadRequestError, match="data: addresses"):
        client.chat.completions.create(model="tiny", messages=messages("https://example.org/a.png"))
    with pytest.raises(openai.APIStatusError, match="over the limit") as caught:
        client.chat.completions.create(model="tiny", messages=messages(), max_tokens=10**6)
    assert caught.value.status_code == 413
    stranger = openai.OpenAI(base_url=f"{served.base}/v1", api_key="not-this-one-at-all", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()

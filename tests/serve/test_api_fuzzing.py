"""Requests made up from our own OpenAPI document, right and wrong: none is a 500, none hangs, all answers are of it."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from local_server import LocalServer, data_url, picture_bytes, serving
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from olmo.models.molmo.molmo import Molmo

CHECKS = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance,
]  # fmt: skip
QUICK, MANY = 40, 1000
HANGS_S = 60.0
PICTURES = [
    data_url(picture_bytes(20, 30)), data_url(picture_bytes(1, 1, "GIF")), data_url(picture_bytes()[:80]),
    "data:image/png;base64,", "file:///etc/passwd", "http://127.0.0.1/",
]  # fmt: skip


@pytest.fixture(scope="module")
def fuzzed(model: Molmo) -> Iterator[LocalServer]:
    with serving(model, max_new_tokens=6, default_max_tokens=4) as server:
        yield server
        server.idle()


def made_nearer(body: Any) -> Any:
    """A body as it is for the most part, but of the right model, short, and about pictures of which some are there."""
    if not isinstance(body, dict):
        return body
    body = {**body, "model": "tiny"}
    for name in ("max_tokens", "max_completion_tokens", "n"):
        if isinstance(body.get(name), int):
            body[name] = 1 + body[name] % 4
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            url = part.get("image_url") if isinstance(part, dict) else None
            if isinstance(url, dict) and isinstance(url.get("url"), str):
                url["url"] = PICTURES[len(url["url"]) % len(PICTURES)]
    return body


def made_answerable(body: Any) -> Any:
    """The same without what makes most of them wrong: fields that exclude each other, and turns that do not."""
    body = made_nearer(body)
    if not isinstance(body, dict):
        return body
    for name in ("selection_ratio", "max_completion_tokens", "include_details", "stream_options", "top_logprobs"):
        body.pop(name, None)
    body["messages"] = [{"role": "user", "content": f"what is {str(body.get('messages'))[:200].encode()!r}?"}]
    return body


WAYS = (lambda body: body, made_nearer, made_answerable)
"""What is done to a made-up body: a third stays as it is."""


def fuzz(server: LocalServer, path: str, method: str, mode: GenerationMode, n: int) -> collections.Counter[int]:
    """Ask so many made-up requests; how often each status was answered."""
    api = schemathesis.openapi.from_url(f"{server.base}/openapi.json")
    seen: collections.Counter[int] = collections.Counter()

    @settings(
        max_examples=n, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.body = WAYS[sum(seen.values()) % len(WAYS)](case.body)
        response = case.call(timeout=HANGS_S)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    ask()
    return seen


@pytest.mark.parametrize(("path", "method"), [
    ("/v1/models", "GET"), ("/v1/models/{model_id}", "GET"), ("/health", "GET"), ("/ready", "GET"), ("/metrics", "GET"),
])  # fmt: skip
def test_made_up_requests_for_facts_are_answered_as_documented(fuzzed: LocalServer, path: str, method: str) -> None:
    seen = fuzz(fuzzed, path, method, GenerationMode.POSITIVE, 10)
    assert seen and set(seen) <= {200, 400, 404, 405}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/points"])
def test_made_up_questions_are_answered_or_refused_as_documented(
    fuzzed: LocalServer, path: str, mode: GenerationMode
) -> None:
    check_statuses(fuzz(fuzzed, path, "POST", mode, QUICK), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/points"])
def test_very_many_made_up_questions(fuzzed: LocalServer, path: str, mode: GenerationMode) -> None:
    seen = fuzz(fuzzed, path, "POST", mode, MANY)
    check_statuses(seen, mode)
    assert sum(seen.values()) >= MANY // 2


def check_statuses(seen: collections.Counter[int], mode: GenerationMode) -> None:
    """Some were answered where they were right, and what was wrong was refused."""
    assert set(seen) <= {200, 400, 404, 413, 415}, seen
    assert seen[400], seen
    if mode is GenerationMode.POSITIVE:
        assert seen[200] and seen[404], seen

"""Lines of a batch: requests in the form of OpenAI's batch files or in our short one, and lines that answer them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from olmo.serve.errors import ApiError
from olmo.serve.protocol import ChatRequest, read_request

CHAT_URL, POINTS_URL = "/v1/chat/completions", "/v1/points"
URLS = (CHAT_URL, POINTS_URL)
"""What a line of OpenAI's form may ask for."""

_OPENAI_KEYS = frozenset({"custom_id", "method", "url", "body"})
_MEDIA = {"image": "image_url", "images": "image_url", "video": "video_url", "videos": "video_url"}
_MAX_KEY_CHARS = 1000
_ID = "batch_req_"


@dataclass(frozen=True)
class BatchRow:
    """One line that was asked.

    Attributes:
        number: place among the rows, from 0; blank lines are none.
        key: what the line calls itself: `custom_id` or `id`.
        is_openai: whether it has OpenAI's form, and gets an answer in that form.
        url: which kind of answer is meant.
        request: the request; None where there is an error.
        error: why it cannot be asked.
    """

    number: int
    key: Any = None
    is_openai: bool = False
    url: str = POINTS_URL
    request: ChatRequest | None = None
    error: ApiError | None = None

    def answered(self, body: dict[str, Any]) -> dict[str, Any]:
        """The line that answers it.

        Args:
            body: what the server would answer.
        """
        if self.is_openai:
            return self._response(200, body, None)
        kept = {k: v for k, v in body.items() if k not in ("id", "created", "model", "object")}
        return {"row": self.number, "id": self.key, **kept, "error": None}

    def failed(self, error: ApiError) -> dict[str, Any]:
        """The line that says why there is no answer."""
        told = {"code": error.code or error.kind, "message": str(error)}
        if self.is_openai:
            return self._response(error.status, error.body(), told)
        return {"row": self.number, "id": self.key, "error": told}

    def _response(self, status: int, body: dict[str, Any], error: dict[str, Any] | None) -> dict[str, Any]:
        request_id = f"{_ID}{self.number}"
        response = {"status_code": status, "request_id": request_id, "body": body}
        return {"id": request_id, "custom_id": self.key, "response": response, "error": error}


def row_number(line: dict[str, Any]) -> int:
    """Which row a line answers.

    Args:
        line: what `BatchRow.answered` or `BatchRow.failed` made.
    """
    return int(line["row"] if "row" in line else line["id"].removeprefix(_ID))


def read_row(number: int, line: bytes, model_name: str) -> BatchRow:
    """One line.

    Args:
        number: place among the rows.
        line: JSON in UTF-8.
        model_name: what the model is called.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return BatchRow(number, error=_wrong(f"the line is not JSON: {error}"[:300], "invalid_json"))
    if not isinstance(value, dict):
        return BatchRow(number, error=_wrong("the line is not a JSON object", "invalid_json"))
    is_openai = not _OPENAI_KEYS.isdisjoint(value)
    row = BatchRow(number, _short(value.get("custom_id" if is_openai else "id")), is_openai)
    try:
        url, body = _openai(value) if is_openai else (POINTS_URL, _short_form(value))
        request = read_request(json.dumps({"model": model_name, **body}).encode())
        if request.stream:
            raise _wrong("a batch writes whole answers; leave stream out", "unsupported")
        if url == POINTS_URL and (request.n_choices > 1 or request.logprobs):
            raise _wrong(f"n and logprobs are for lines of OpenAI's form with the url {CHAT_URL}", "unsupported")
    except ApiError as error:
        return BatchRow(number, row.key, is_openai, error=error)
    return BatchRow(number, row.key, is_openai, url, request)


def _openai(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Address and body of a line of OpenAI's form."""
    if unknown := sorted(set(value) - _OPENAI_KEYS):
        raise _wrong(f"a line with custom_id, method, url and body has no {unknown[0][:100]!r}", "invalid_value")
    if not isinstance(value.get("custom_id"), str):
        raise _wrong("custom_id: must be a text that names the line", "invalid_value")
    if value.get("method", "POST") != "POST" or value.get("url", CHAT_URL) not in URLS:
        raise _wrong(f"method: must be POST, and url one of {', '.join(URLS)}", "invalid_value")
    if not isinstance(value.get("body"), dict):
        raise _wrong("body: must be a request, a JSON object", "invalid_value")
    return value.get("url", CHAT_URL), value["body"]


def _short_form(value: dict[str, Any]) -> dict[str, Any]:
    """The request that a line of our form means: `prompt` or `messages`, pictures or videos, and settings."""
    rest = {k: v for k, v in value.items() if k not in ("id", "prompt", "messages", *_MEDIA)}
    if ("prompt" in value) == ("messages" in value):
        raise _wrong("give prompt or messages, one of them", "invalid_value")
    messages = value.get("messages", [{"role": "user", "content": value.get("prompt")}])
    parts = [part for key, kind in _MEDIA.items() if key in value for part in _parts(value[key], key, kind)]
    if not parts:
        return {**rest, "messages": messages}
    if not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
        raise _wrong("messages: must be a list of turns", "invalid_value")
    content = messages[0].get("content")
    content = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {**rest, "messages": [{**messages[0], "content": [*parts, *content]}, *messages[1:]]}


def _parts(named: Any, key: str, kind: str) -> list[dict[str, Any]]:
    """Parts of a message for what stands under `image`, `images`, `video` or `videos`."""
    found = named if key.endswith("s") else [named]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        what = "a list of paths" if key.endswith("s") else "a path"
        raise _wrong(f"{key}: must be {what} or data: addresses", "invalid_value")
    return [{"type": kind, kind: {"url": one}} for one in found]


def _short(key: Any) -> Any:
    """What a line calls itself, as far as it is repeated."""
    return key if not isinstance(key, str) else key[:_MAX_KEY_CHARS]


def _wrong(message: str, code: str) -> ApiError:
    return ApiError(400, message, code=code)

"""Bodies of requests: read within a size and a time, and only of the one type that is understood."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette.requests import Request

from olmo.serve.errors import ApiError, too_large
from olmo.serve.protocol import ChatRequest, read_request
from olmo.serve.serve_config import ServeConfig

_SCHEMAS = "#/components/schemas/{model}"


async def chat_request(request: Request, config: ServeConfig) -> ChatRequest:
    """The chat request that a body holds.

    Raises:
        ApiError: 400, 408, 413 or 415.
    """
    _check_headers(request, config)
    try:
        async with asyncio.timeout(config.body_timeout_s):
            body = await _body(request, config.max_body_bytes)
    except TimeoutError:
        message = f"the body did not come in within {config.body_timeout_s:g} s"
        raise ApiError(408, message, code="body_timeout") from None
    return await asyncio.to_thread(read_request, body)


def describe_bodies(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schema of requests to an OpenAPI document; the routes read bodies themselves, so it has none."""
    _, found = models_json_schema([(ChatRequest, "validation")], ref_template=_SCHEMAS)
    document.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
    return document


def body_reference() -> dict[str, Any]:
    """What a route says of its body in the OpenAPI document."""
    schema = {"$ref": _SCHEMAS.format(model=ChatRequest.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _check_headers(request: Request, config: ServeConfig) -> None:
    # A page of another origin may send plain text without asking, JSON not.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "a body is application/json", code="unsupported_content_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "compressed bodies are not read", code="unsupported_encoding")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > config.max_body_bytes:
        raise _too_long(config.max_body_bytes)


async def _body(request: Request, max_bytes: int) -> bytes:
    """The body in pieces, so that neither a false length nor none gets past the limit."""
    pieces, n_bytes = [], 0
    async for piece in request.stream():
        n_bytes += len(piece)
        if n_bytes > max_bytes:
            raise _too_long(max_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _too_long(max_bytes: int) -> ApiError:
    return too_large(f"the body is over the limit of {max_bytes:,} bytes", "body_too_large")

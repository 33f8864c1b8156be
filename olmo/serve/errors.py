"""Errors as a client sees them: a status, and a body in the shape of OpenAI's. What we did not expect stays inside."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import ValidationError

from olmo.engine.continuous import EngineStoppedError, QueueFullError
from olmo.exceptions import OLMoError, OLMoInputError

RETRY_AFTER_S = 2
"""Seconds after which a client may try again."""

_LOG = logging.getLogger("olmo.serve")
_SHOWN = 300  # characters of a message that may hold what the client wrote
_UNKNOWN = "is not a field that this server knows; it could change the answer, so it is refused: leave it out"


class ApiError(OLMoError):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        kind: `type` of the body, a class of errors.
        code: what exactly, for programs.
        param: field of the request that it is about.
        headers: headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.kind, self.code, self.param, self.headers = status, kind, code, param, dict(headers or {})
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The body that a client gets."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def too_large(message: str, code: str, param: str | None = None) -> ApiError:
    """A request is past a limit of size."""
    return ApiError(413, message, code=code, param=param)


def try_later(status: int, message: str, code: str) -> ApiError:
    """The server could answer at another time."""
    kind = "rate_limit_error" if status == 429 else "server_error"
    return ApiError(status, message, kind=kind, code=code, headers={"Retry-After": str(RETRY_AFTER_S)})


def as_api_error(error: BaseException) -> ApiError:
    """What a client is told of an error; one that nobody expected is logged, and only called so."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return try_later(429, str(error), "queue_full")
    if isinstance(error, EngineStoppedError):
        return try_later(503, "the server takes no requests at the moment", "not_ready")
    if isinstance(error, OLMoInputError):
        return ApiError(400, str(error), code="invalid_value")
    _LOG.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed to answer this request", kind="server_error", code="internal_error")


def of_validation(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:_SHOWN]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg'][:_SHOWN]}", code="invalid_json")
    text = _UNKNOWN if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")[:_SHOWN]
    message = f"{place}: {text}" if place else text
    return ApiError(400, message, code="invalid_value", param=place or None)

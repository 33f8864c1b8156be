"""The door of a server: who may ask, and under which name the server may be called."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from olmo.exceptions import OLMoConfigurationError
from olmo.serve.errors import ApiError
from olmo.serve.page_files import PAGE_ROUTES

OPEN_ROUTES = ("/health", *PAGE_ROUTES)
"""Paths that need no key: a sign of life, and the files of the page, which are the same for everybody."""

_MIN_KEY_CHARS = 16
_MAX_HEADER_BYTES = 32 * 2**10
_ANSWER_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Door:
    """An ASGI application behind a key and a check of the Host header.

    The second keeps web pages out that a browser on this machine shows: their own name, made to lead here, is refused.

    Args:
        app: the application.
        key: what clients send as `Authorization: Bearer KEY`; None: nothing is asked.
        host_names: names that the Host header may give, without port; None: any.
    """

    def __init__(self, app: ASGIApp, key: str | None, host_names: Sequence[str] | None) -> None:
        self._app = app
        self._digest = None if key is None else _digest(key)
        self._host_names = host_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ANSWER_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused.response()(scope, receive, marked)
        else:
            await self._app(scope, receive, marked)

    def _refused(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) + len(scope["query_string"]) > _MAX_HEADER_BYTES:
            return ApiError(431, "the headers and the address are too long", code="headers_too_large")
        if self._host_names is not None and _name(headers.get("host", "")) not in self._host_names:
            return ApiError(
                403, "the server does not answer under the name in the Host header (see allowed_hosts)", code="bad_host"
            )
        if self._digest is None or scope["path"] in OPEN_ROUTES:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Digests are of one length, so neither their comparison nor its time tells anything about the key.
        is_right = hmac.compare_digest(_digest(given.strip()), self._digest)
        if is_right and scheme.lower() == "bearer":
            return None
        return ApiError(
            401,
            "wrong or missing API key; send it as Authorization: Bearer KEY",
            kind="authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def read_key(path: str | Path) -> str:
    """The API key in a file, without blanks around it.

    Raises:
        OLMoConfigurationError: the file cannot be read, or what is in it is no key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OLMoConfigurationError(f"cannot read the API key from {str(path)!r}: {error}") from None
    return checked_key(text, str(path))


def checked_key(text: str, place: str) -> str:
    """A key, without blanks around it.

    Args:
        text: the key.
        place: where it is from, for the message.

    Raises:
        OLMoConfigurationError: it is too short, or not printable ASCII. The message does not repeat it.
    """
    key = text.strip()
    if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise OLMoConfigurationError(
            f"the API key in {place} has {len(key)} characters; it must be at least {_MIN_KEY_CHARS} printable ASCII "
            'characters without blanks: python -c "import secrets; print(secrets.token_urlsafe(32))" makes one'
        )
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()

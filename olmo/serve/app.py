"""`create_app`: the routes of a server, as an ASGI application around one model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from olmo import __version__
from olmo.engine.request import Piece
from olmo.exceptions import OLMoError
from olmo.models.base import ModelBase
from olmo.serve.access import Door
from olmo.serve.answering import Answering, Running
from olmo.serve.bodies import body_reference, chat_request, describe_bodies
from olmo.serve.details import told_abilities
from olmo.serve.document import describe_answers
from olmo.serve.errors import ApiError, as_api_error
from olmo.serve.metrics import Measured
from olmo.serve.page_files import PAGE_HEADERS, PageFile, page_files
from olmo.serve.protocol import ChatRequest
from olmo.serve.replies import Reply, error_events
from olmo.serve.serve_config import ServeConfig

T = TypeVar("T")

CHAT, POINTS = "/v1/chat/completions", "/v1/points"
_RUNNING = "olmo.running"
"""Key of an ASGI scope: what the request has running."""


def create_app(model: ModelBase, config: ServeConfig, *, api_key: str | None = None) -> FastAPI:
    """An application that answers with `model`.

    Its engine starts at once, and stops with the application's lifespan.

    Args:
        model: any model; nobody else may use it meanwhile.
        config: limits.
        api_key: what clients must send; None: anybody may ask.

    Returns:
        The application. `app.state.answering` is the `Answering` behind it.
    """
    answering = Answering(model, config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await answering.close()

    app = FastAPI(title="molmo", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.answering = answering
    _add_answers(app, answering)
    _add_facts(app, answering)
    if config.page:
        _add_page(app)
    app.add_exception_handler(OLMoError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_leaving)
    app.add_exception_handler(Exception, _on_any_error)
    app.add_middleware(Admission, answering=answering)
    app.add_middleware(Door, key=api_key, host_names=config.host_names)
    app.add_middleware(Measured, metrics=answering.metrics)
    _describe(app)
    return app


class Admission:
    """An ASGI application that takes in so many questions at a time, and gives up what is left when one ends.

    Args:
        app: the application.
        answering: counts the places.
    """

    def __init__(self, app: ASGIApp, answering: Answering) -> None:
        self._app, self._answering = app, answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] not in (CHAT, POINTS) or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            place = self._answering.admitted()
            place.__enter__()
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        scope[_RUNNING] = []
        try:
            await self._app(scope, receive, send)
        finally:
            for running in scope[_RUNNING]:
                running.close()
            place.__exit__(None, None, None)


def _add_answers(app: FastAPI, answering: Answering) -> None:
    """Routes that ask the model."""

    @app.post(CHAT, openapi_extra=body_reference(), summary="Answer a conversation about pictures")
    async def chat(request: Request) -> Response:
        asked = await chat_request(request, answering.config)
        running = await _begun(request, answering, asked)
        reply = Reply(asked, running, answering.model.tokenizer)
        if not asked.stream:
            await _while_connected(request, _collect(reply, running.pieces()))
            return JSONResponse(reply.completion())
        pieces = running.pieces()
        first = await _while_connected(request, anext(pieces))  # so that what fails at once has a status of its own
        return StreamingResponse(_stream(reply, first, pieces), media_type="text/event-stream")

    @app.post(POINTS, openapi_extra=body_reference(), summary="Point at things in a picture")
    async def points(request: Request) -> Response:
        asked = await chat_request(request, answering.config)
        if asked.stream or asked.n_choices > 1 or asked.logprobs:
            raise ApiError(400, "points come whole and once: leave stream, n and logprobs out", code="unsupported")
        running = await _begun(request, answering, asked)
        reply = Reply(asked, running, answering.model.tokenizer)
        await _while_connected(request, _collect(reply, running.pieces()))
        return JSONResponse(reply.points())


def _add_facts(app: FastAPI, answering: Answering) -> None:
    """Routes that tell about the server."""
    name, since = answering.config.model_name, int(time.time())
    abilities = told_abilities(answering.model, answering.config)
    model = {"id": name, "object": "model", "created": since, "owned_by": "molmo", "olmo": abilities}

    @app.get("/v1/models", summary="The model of this server, in a list")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{model_id:path}", summary="The model of this server")
    async def one_model(model_id: str) -> dict[str, Any]:
        if model_id != name:
            raise ApiError(404, f"there is no model of that name; this server has {name!r}", code="model_not_found")
        return model

    @app.get("/health", summary="Whether the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether requests are taken in")
    async def ready() -> Response:
        if answering.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "draining" if answering.is_draining else "stopped"}, 503)

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(answering.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    """Routes of the web page; its files are read once."""
    for path, file in page_files().items():
        app.add_route(path, _shows(file), methods=["GET"], include_in_schema=False)


def _shows(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    async def route(_: Request) -> Response:
        return Response(file.data, media_type=file.media_type, headers=PAGE_HEADERS)

    return route


async def _begun(request: Request, answering: Answering, asked: ChatRequest) -> Running:
    """The request in the engine's hands; it is given up when the call of the application ends."""
    client = request.client.host if request.client is not None else ""
    running = await _while_connected(request, answering.begin(asked, client))
    request.scope[_RUNNING].append(running)
    return running


async def _collect(reply: Reply, pieces: AsyncIterator[Piece]) -> None:
    async for piece in pieces:
        reply.add(piece)


async def _stream(reply: Reply, first: Piece, pieces: AsyncIterator[Piece]) -> AsyncIterator[str]:
    """Server-sent events; an error half-way is one of them, because the status has been sent."""
    try:
        yield reply.events(first)
        async for piece in pieces:
            if sent := reply.events(piece):
                yield sent
        yield reply.last_events()
    except Exception as error:
        yield error_events(as_api_error(error).body())


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """What `work` returns; it is cancelled when the client goes away.

    Raises:
        ClientDisconnect: the client went away.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect("the client went away")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_api_error(_: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _on_any_error(_: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it is registered for these"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()


async def _on_leaving(_: Request, error: Exception) -> Response:
    del error
    return Response(status_code=499)  # nobody reads it; the figures do


def _describe(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            plain = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = describe_answers(describe_bodies(plain))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

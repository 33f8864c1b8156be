"""The process of a server: uvicorn with our limits, and an end that lets running answers finish."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from olmo.models.base import ModelBase
from olmo.serve.answering import Answering
from olmo.serve.app import create_app
from olmo.serve.serve_config import ServeConfig

_MAX_HEADER_BYTES = 64 * 2**10
"""What is kept of headers before they are whole; the door has a narrower limit."""

_KEEP_ALIVE_S = 30
_LAST_WORDS_S = 5
"""Seconds in which answers that were cut off at the end of the drain can still say so."""


class Server(uvicorn.Server):
    """Uvicorn that drains: on the first signal nothing more is taken in, and what runs may finish; a second one stops.

    Args:
        model: any model.
        config: where to listen, and limits.
        api_key: what clients must send; None: anybody may ask.
        on_start: is told the port once the server listens.
    """

    def __init__(
        self,
        model: ModelBase,
        config: ServeConfig,
        api_key: str | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        app = create_app(model, config, api_key=api_key)
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                http="h11",
                ws="none",
                lifespan="on",
                loop="asyncio",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                limit_concurrency=config.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_WORDS_S,
            )
        )
        self.answering: Answering = app.state.answering
        self._drain_timeout_s = config.drain_timeout_s
        self._deadline: float | None = None
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start(self.port)

    @property
    def port(self) -> int:
        """Port that the server listens at, once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    def drain(self) -> None:
        """Take no more requests in, and stop when those that run are answered; may be called from any thread."""
        self.answering.is_draining = True
        self._deadline = time.monotonic() + self._drain_timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        if self._deadline is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`."""
        if self._deadline is not None and not self.should_exit:
            if time.monotonic() > self._deadline:
                await asyncio.to_thread(self.answering.engine.close)
                self.should_exit = True
            elif not self.answering.n_admitted:
                self.should_exit = True
        return await super().on_tick(counter)

"""Figures of a server for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from olmo.engine.continuous import ContinuousEngine

ROUTES = ("/v1/chat/completions", "/v1/points", "/v1/models", "/health", "/ready", "/metrics")
"""Paths that have figures of their own; all others are counted together."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The figures of one server, in a registry of its own.

    Args:
        engine: whose queue is shown.
    """

    def __init__(self, engine: ContinuousEngine) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("molmo_requests", "Answered requests.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "molmo_request_seconds", "Time of a request.", ("route",), buckets=_SECONDS, registry=own
        )
        self.first_token = Histogram(
            "molmo_first_token_seconds", "Time from a request to the first token.", buckets=_SECONDS, registry=own
        )
        self.prompt_tokens = Counter("molmo_prompt_tokens", "Tokens of prompts, pictures included.", registry=own)
        self.new_tokens = Counter("molmo_generated_tokens", "Tokens of answers.", registry=own)
        self.cancelled = Counter("molmo_cancelled_requests", "Requests whose client went away.", registry=own)
        Gauge("molmo_waiting_requests", "Requests in the queue.", registry=own).set_function(lambda: engine.n_waiting)
        Gauge("molmo_running_answers", "Answers being decoded.", registry=own).set_function(lambda: engine.n_running)

    def text(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self.registry)


class Measured:
    """An ASGI application whose requests are counted and timed.

    Args:
        app: the application.
        metrics: where figures go.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        status, start = 499, time.perf_counter()  # what is counted for a client that left before an answer began

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)

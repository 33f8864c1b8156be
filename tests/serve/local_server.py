"""A model behind a real server on this machine, and what to send it."""

from __future__ import annotations

import base64
import faulthandler
import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from olmo.engine.continuous import ContinuousEngine
from olmo.serve.serve_config import ServeConfig
from olmo.serve.server import Server

LIMITS: dict[str, Any] = {
    "port": 0, "model_name": "tiny", "max_rows": 4, "max_waiting": 60, "max_images": 3, "max_pixels": 300_000,
    "max_media_bytes": 100_000, "max_body_bytes": 600_000, "max_prompt_chars": 20_000, "media_timeout_s": 60.0,
}  # fmt: skip


class LocalServer:
    """A server in a thread.

    Attributes:
        base: its address.
        server: itself.
    """

    def __init__(self, model: Any, api_key: str | None = None, **changes: Any) -> None:
        self.server = Server(model, ServeConfig(**{**LIMITS, **changes}), api_key)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        self.base = f"http://127.0.0.1:{self.server.port}"
        # A connection for each request: an idle one may be closed just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=self.base, timeout=120, limits=limits)

    def ask(self, **changes: Any) -> httpx.Response:
        """Send a chat request; the answer."""
        return self.client.post("/v1/chat/completions", json={**question(), **changes})

    def idle(self) -> None:
        """Wait until nothing is asked and nothing runs."""
        answering = self.server.answering
        for _ in range(3000):
            if not (answering.n_admitted or answering.engine.n_running or answering.engine.n_waiting):
                return
            time.sleep(0.01)
        raise AssertionError("a request is still running")

    def metric(self, name: str) -> float:
        """A figure as Prometheus would read it."""
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def close(self) -> None:
        """Stop it; whatever it did, it must end."""
        self.client.close()
        self.server.drain()
        self._thread.join(self.server.answering.config.drain_timeout_s + 30)  # what still runs is cut off by then
        if self._thread.is_alive():
            faulthandler.dump_traceback(file=sys.__stderr__)  # of all threads: where it hangs
        told = f"{self.server.answering.n_admitted} requests are let in, should_exit={self.server.should_exit}"
        assert not self._thread.is_alive(), f"the server does not end; {told}"


@contextmanager
def serving(model: Any, api_key: str | None = None, **changes: Any) -> Iterator[LocalServer]:
    server = LocalServer(model, api_key, **changes)
    try:
        yield server
    finally:
        server.close()


def question(text: str = "what is this?", *urls: str, **changes: Any) -> dict[str, Any]:
    """A chat request about pictures."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": text}, *parts]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **changes}


def picture_bytes(width: int = 60, height: int = 40, kind: str = "PNG", seed: int = 0) -> bytes:
    rng, out = np.random.default_rng(seed), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in a body of OpenAI's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and body["error"]["type"]
    return dict(body["error"])


def slow_steps(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """Make every step of every engine take a while, so that an answer is still running when it is looked at."""
    step = ContinuousEngine._step

    def slower(engine: ContinuousEngine) -> None:
        time.sleep(seconds)
        step(engine)

    monkeypatch.setattr(ContinuousEngine, "_step", slower)

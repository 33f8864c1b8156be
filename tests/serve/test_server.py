"""The end of a server: what runs may finish, what comes is refused, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest
from local_server import LocalServer, error_of, slow_steps

from olmo.models.molmo.molmo import Molmo


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)


def _asked(server: LocalServer, changes: dict[str, Any]) -> Any:
    """The answer, or what went wrong where the connection was cut."""
    try:
        return server.ask(**changes)
    except httpx.HTTPError as error:
        return error


def ask_meanwhile(server: LocalServer, n_running: int = 1, **changes: Any) -> tuple[threading.Thread, list[Any]]:
    """A request in a thread, once so many run."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(_asked(server, changes)))
    thread.start()
    while server.server.answering.engine.n_running < n_running:
        time.sleep(0.005)
    return thread, found


def test_a_drain_finishes_what_runs_and_refuses_what_comes(model: Molmo, slow: None) -> None:
    server = LocalServer(model)
    thread, found = ask_meanwhile(server, max_tokens=60, temperature=1, seed=3)
    server.server.handle_exit(15, None)
    answer = server.ask()
    assert error_of(answer, 503)["code"] == "not_ready" and "retry-after" in answer.headers
    assert server.client.get("/ready").json() == {"status": "draining"}
    assert server.client.get("/health").status_code == 200
    thread.join()
    assert found[0].status_code == 200 and found[0].json()["choices"][0]["message"]["content"]
    server.close()


def test_a_drain_has_an_end(model: Molmo, slow: None) -> None:
    server = LocalServer(model, drain_timeout_s=0.3)
    thread, found = ask_meanwhile(server, max_tokens=900)
    streamed, events = ask_meanwhile(server, 2, max_tokens=900, stream=True)
    server.server.handle_exit(15, None)
    for waiting in (thread, streamed):
        waiting.join(30)
        assert not waiting.is_alive()
    assert error_of(found[0], 503)["code"] == "stopping"
    assert '"code":"stopping"' in events[0].text, "a stream that was cut off says so"
    server.close()


def test_a_second_signal_stops_at_once(model: Molmo, slow: None) -> None:
    server = LocalServer(model, drain_timeout_s=60)
    thread, _ = ask_meanwhile(server, max_tokens=900, stream=True)
    server.server.handle_exit(15, None)
    began = time.monotonic()
    server.server.handle_exit(15, None)
    server._thread.join(30)
    assert not server._thread.is_alive() and time.monotonic() - began < 30
    server.server.answering.engine.close()
    thread.join(30)
    assert not thread.is_alive()

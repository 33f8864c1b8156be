"""Signals as a system sends them: a decoder is killed in the middle of a request, and the server is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from typing import Any

import httpx
import psutil
import pytest
from local_server import data_url, error_of, picture_bytes, question, serving
from test_soak import program

from olmo.models.molmo.molmo import Molmo

ASKED = question("what is this?", data_url(picture_bytes()), max_tokens=2)


def test_a_decoder_that_is_killed_fails_its_own_request_alone(model: Molmo) -> None:
    with serving(model, media_workers=1) as server:
        assert server.ask(**ASKED).status_code == 200
        decoder = server.server.answering._media.pool._idle[0].pid
        os.kill(decoder, signal.SIGSTOP)
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(server.ask(**ASKED)))
        asking.start()
        while not server.server.answering.n_admitted:
            time.sleep(0.01)
        time.sleep(0.3)  # so that it waits for the decoder
        assert server.ask().status_code == 200, "requests without pictures go on meanwhile"
        os.kill(decoder, signal.SIGKILL)
        asking.join(60)
        error = error_of(found[0], 400)
        assert error["code"] == "invalid_media" and "crashed" in error["message"]
        assert [server.ask(**ASKED).status_code for _ in range(3)] == [200] * 3
        assert not psutil.pid_exists(decoder), "it is replaced, and nothing of it is left"
        server.idle()


@pytest.mark.slow
def test_a_signal_lets_running_answers_finish_and_refuses_new_ones() -> None:
    """The program itself: a stream that has begun goes on to its end, a new request gets 503, the process ends well."""
    numbers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": 99},
        "minItems": 99,
        "maxItems": 99,
    }
    body: dict[str, Any] = {
        "model": "molmo-nano", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 400, "stream": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": numbers}},
    }  # fmt: skip

    async def ask(process: psutil.Process, base: str) -> str:
        text, is_told = "", False
        async with (
            httpx.AsyncClient(timeout=120) as client,
            client.stream("POST", f"{base}/chat/completions", json=body) as answer,
        ):
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if not is_told:
                    is_told = True
                    process.send_signal(signal.SIGTERM)
                    while (await client.get(base.replace("/v1", "/ready"))).status_code == 200:
                        await asyncio.sleep(0.01)
                    refused = await client.post(f"{base}/chat/completions", json={**body, "stream": False})
                    assert error_of(refused, 503)["code"] == "not_ready"
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                text += chunk["choices"][0]["delta"].get("content") or ""
        return text

    with program("max_rows=2") as (process, base):
        assert len(json.loads(asyncio.run(ask(process, base)))) == 99, "the answer is whole"

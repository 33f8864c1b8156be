"""Routes: what is answered, what is refused and with which status, and that nothing is left behind."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from local_server import LocalServer, data_url, error_of, picture_bytes, question, serving, slow_steps

from olmo.engine.request import Question
from olmo.models.molmo.molmo import Molmo
from olmo.preprocessing.image import load_image
from olmo.serve.answering import Answering

CHAT, POINTS = "/v1/chat/completions", "/v1/points"
LONG = {"max_tokens": 900}


def alone(model: Molmo, text: str, *pictures: bytes, n: int = 4) -> str:
    """What `generate` says."""
    images = [load_image(data, 10**6) for data in pictures]
    inputs = model.config.build_preprocessor(for_inference=True)({"prompt": text, "images": images})
    inputs.pop("metadata")
    return model.generate(**inputs, max_new_tokens=n).text[0]


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_facts(local: LocalServer) -> None:
    models = local.client.get("/v1/models").json()
    assert [m["id"] for m in models["data"]] == ["tiny"]
    assert local.client.get("/v1/models/tiny").json() == models["data"][0]
    error_of(local.client.get("/v1/models/../../etc/passwd"), 404)
    error_of(local.client.get("/v1/models/other"), 404)
    assert local.client.get("/health").json() == {"status": "ok"}
    assert local.client.get("/ready").json() == {"status": "ready"}
    assert error_of(local.client.get(CHAT), 405)["code"] == "method_not_allowed"
    schemas = local.client.get("/openapi.json").json()["components"]["schemas"]
    assert "selection_ratio" in schemas["ChatRequest"]["properties"]


def test_answers_are_those_of_generate(local: LocalServer, model: Molmo) -> None:
    pictures = [picture_bytes(seed=i) for i in range(2)]
    for given in ([], pictures[:1], pictures):
        body = local.ask(messages=question("look at it", *map(data_url, given))["messages"]).json()
        choice = body["choices"][0]
        assert choice["message"]["content"] == alone(model, "look at it", *given)
        assert choice["finish_reason"] in ("stop", "length")
        usage = body["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] and usage["prompt_tokens"]


def test_a_picture_of_one_pixel_is_answered(local: LocalServer) -> None:
    assert local.ask(**question("?", data_url(picture_bytes(1, 1)))).status_code == 200


def test_a_stream_says_the_same(local: LocalServer) -> None:
    asked = question("stream it", max_tokens=12)
    whole = local.ask(**asked).json()
    answer = local.ask(**asked, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(answer.text)
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]] == [
        whole["choices"][0]["finish_reason"]
    ]
    assert len({c["id"] for c in chunks}) == 1


def test_several_answers_and_log_probabilities(local: LocalServer) -> None:
    body = local.ask(n=3, seed=5, temperature=1.0, logprobs=True, top_logprobs=2, max_tokens=6).json()
    again = local.ask(n=3, seed=5, temperature=1.0, max_tokens=6).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert len(set(texts)) > 1 and texts == [choice["message"]["content"] for choice in again["choices"]]
    for choice in body["choices"]:
        told = choice["logprobs"]["content"]
        assert bytes(b for token in told for b in token["bytes"]).decode(errors="replace").lstrip() == (
            choice["message"]["content"].lstrip()
        )
        assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in told)
        assert all(token["top_logprobs"][0]["logprob"] >= token["logprob"] for token in told)


def test_stop_ends_an_answer(local: LocalServer) -> None:
    whole = local.ask(max_tokens=12, seed=1, temperature=1).json()["choices"][0]["message"]["content"]
    stop = whole[3:5]
    choice = local.ask(max_tokens=12, seed=1, temperature=1, stop=[stop]).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop"


def test_points_are_told_in_percent_and_pixels(local: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    says = '<points x1="10.0" y1="25.0" x2="50.5" y2="75.0" alt="cats">cats</points>'
    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.push", lambda *a: "")
    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.flush", lambda *a: says)
    body = local.client.post(POINTS, json=question("Point to the cats.", data_url(picture_bytes(200, 100)))).json()
    assert body["text"] == says and body["image_sizes"] == [{"width": 200, "height": 100}]
    assert body["points"] == [
        {"label": "cats", "x": 10.0, "y": 25.0, "x_px": 20.0, "y_px": 25.0},
        {"label": "cats", "x": 50.5, "y": 75.0, "x_px": 101.0, "y_px": 75.0},
    ]
    for changes in ({"stream": True}, {"n": 2}, {"logprobs": True}):
        error_of(local.client.post(POINTS, json={**question(), **changes}), 400)


@pytest.mark.parametrize(("changes", "status", "code"), [
    ({"model": "other"}, 404, "model_not_found"), ({"n": 5}, 400, "too_many"),
    ({"max_tokens": 10**6}, 413, "too_many_tokens"), ({"selection_ratio": 0.5}, 400, "unsupported"),
    (question("x" * 20_001), 413, "context_length_exceeded"),
    (question("why? " * 3000), 413, "context_length_exceeded"),
    (question(""), 400, "invalid_value"), (question("a", *["data:,"] * 4), 413, "too_many_images"),
    (question("a", data_url(picture_bytes(1000, 400, "JPEG"))), 413, "media_too_large"),
    (question("a", data_url(picture_bytes(300, 200))), 413, "media_too_large"),
    (question("a", data_url(b"<svg/>")), 400, "invalid_media"),
    (question("a", data_url(picture_bytes()[:90])), 400, "invalid_media"),
    (question("a", "http://127.0.0.1/"), 400, "unsupported_url"), ({"unknown": 1}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;x"}}]}]},
     400, "unsupported_media"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "invalid_value"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}}, 400,
     "invalid_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"title": "x" * 70_000}}}}, 413,
     "schema_too_large"),
])  # fmt: skip
def test_what_is_refused(local: LocalServer, changes: dict[str, Any], status: int, code: str) -> None:
    assert error_of(local.ask(**changes), status)["code"] == code
    local.idle()


def test_an_unexpected_error_tells_nothing(
    local: LocalServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(Answering, "_prepared", broken)
    error = error_of(local.ask(), 500)
    assert error["code"] == "internal_error" and "secret" not in json.dumps(error)
    assert "a secret path" in caplog.text
    local.idle()


def test_clients_that_go_away_free_their_rows(local: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    before = local.metric("molmo_cancelled_requests_total")
    with pytest.raises(httpx.ReadTimeout):
        local.client.post(CHAT, json={**question("long"), **LONG}, timeout=1)
    with local.client.stream("POST", CHAT, json={**question("long"), **LONG, "stream": True}) as answer:
        next(answer.iter_lines())
    local.idle()
    assert local.metric("molmo_cancelled_requests_total") >= before + 2
    assert local.ask().status_code == 200


def test_many_at_once_are_answered_as_if_alone(local: LocalServer, model: Molmo) -> None:
    texts = [f"question {'again ' * (i % 5)}{i}" for i in range(24)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda text: local.ask(**question(text, max_tokens=6)), texts))
    said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert said == [alone(model, text, n=6) for text in texts]
    local.idle()


def test_more_than_there_is_room_for_is_refused_at_once(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    with serving(model, max_rows=1, max_waiting=1) as server:
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(server.ask(max_tokens=100).status_code)

        running = [threading.Thread(target=ask) for _ in range(2)]
        for thread in running:
            thread.start()
        while server.server.answering.n_admitted < 2:
            time.sleep(0.005)
        answer = server.ask()
        assert error_of(answer, 429)["type"] == "rate_limit_error" and int(answer.headers["retry-after"]) > 0
        for thread in running:
            thread.join()
        assert statuses == [200, 200]


def test_what_takes_too_long_is_given_up(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    with serving(model, max_rows=1, request_timeout_s=0.4) as server:
        assert error_of(server.ask(**LONG), 504)["code"] == "timeout"
        streamed = events(server.ask(**LONG, stream=True).text)
        assert streamed[-1]["error"]["code"] == "timeout", "the status was sent before"
        inputs = model.config.build_preprocessor(for_inference=True)({"prompt": "x"})
        endless = {"max_new_tokens": 900, "eos_token_id": []}
        ticket = server.server.answering.engine.submit(Question(inputs, endless), lambda piece: None)
        assert error_of(server.ask(), 429)["code"] == "queue_timeout", "it never came to its turn"
        ticket.cancel()


def test_an_engine_that_failed_is_not_ready(model: Molmo) -> None:
    with serving(model) as server:
        server.server.answering.engine._running = None  # type: ignore[assignment]
        assert server.ask().status_code in (500, 503)
        for _ in range(500):
            if server.client.get("/ready").status_code == 503:
                break
            time.sleep(0.01)
        error_of(server.ask(), 503)
        assert server.client.get("/health").status_code == 200


def test_figures_add_up(local: LocalServer) -> None:
    names = ("molmo_generated_tokens_total", "molmo_prompt_tokens_total")
    before = [local.metric(name) for name in names]
    usage = local.ask(max_tokens=5).json()["usage"]
    after = [local.metric(name) for name in names]
    assert np.subtract(after, before).tolist() == [usage["completion_tokens"], usage["prompt_tokens"]]
    assert local.metric("molmo_waiting_requests") == local.metric("molmo_running_answers") == 0
    assert 'molmo_requests_total{route="/v1/chat/completions",status="200"}' in local.client.get("/metrics").text
    local.client.get("/some/stranger/path")
    assert "stranger" not in local.client.get("/metrics").text, "paths of strangers make no figures of their own"

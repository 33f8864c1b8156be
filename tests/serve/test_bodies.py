"""Bodies as a hostile client sends them, over a plain socket where a client library would not."""

from __future__ import annotations

import json
import socket

import pytest
from local_server import LocalServer, error_of, question, serving

from olmo.models.molmo.molmo import Molmo

CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def raw(server: LocalServer, data: bytes, timeout_s: float = 60) -> str:
    """What comes back for bytes; the connection is closed after them."""
    with socket.create_connection(("127.0.0.1", server.server.port), timeout=timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer and (piece := connection.recv(4096)):
            answer += piece
        return answer.decode()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read(local: LocalServer, kind: str) -> None:
    """What a page of another origin may send without asking is not read."""
    answer = local.client.post(CHAT, content=json.dumps(question()), headers={"Content-Type": kind})
    assert error_of(answer, 415)["code"] == "unsupported_content_type"


def test_compressed_bodies_are_not_unpacked(local: LocalServer) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = local.client.post(CHAT, content=b"\x1f\x8b", headers=headers)
    assert error_of(answer, 415)["code"] == "unsupported_encoding"


def test_a_body_over_the_limit_is_refused_by_its_stated_length(local: LocalServer) -> None:
    assert " 413 " in raw(local, f"{HEAD}Content-Length: 999999999999\r\n\r\n".encode())


def test_a_body_over_the_limit_is_refused_while_it_comes(local: LocalServer) -> None:
    """No length is stated, so the limit is found while reading."""

    def endless() -> object:
        for _ in range(700):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    assert error_of(local.client.post(CHAT, content=endless(), headers=headers), 413)["code"] == "body_too_large"


def test_a_body_that_never_comes_is_given_up(model: Molmo) -> None:
    with serving(model, body_timeout_s=0.3) as server:
        assert " 408 " in raw(server, f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
        server.idle()


def test_a_client_that_leaves_half_way_frees_its_place(local: LocalServer) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", local.server.port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
    local.idle()
    assert local.ask().status_code == 200


def test_headers_are_bounded(local: LocalServer) -> None:
    long = "x" * 100_000
    answer = raw(local, f"GET /health HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n".encode())
    assert " 431 " in answer
    assert local.client.get("/health").status_code == 200


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"\0" * 100, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_refused(local: LocalServer, data: bytes) -> None:
    assert " 200 " not in raw(local, data + b"\r\n\r\n")
    assert local.client.get("/health").status_code == 200

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer, error_of, question, serving

from olmo.exceptions import OLMoConfigurationError
from olmo.models.molmo.molmo import Molmo
from olmo.serve import access
from olmo.serve.access import checked_key, read_key
from olmo.serve.page_files import PAGE_ROUTES

KEY = "a-key-of-many-letters"
ROUTES = [
    ("GET", "/ready"), ("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("GET", "/openapi.json"),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/points"), ("GET", "/no/such/route"), ("GET", "/page/other.js"),
]  # fmt: skip


def test_every_route_but_health_and_the_page_wants_the_key(model: Molmo) -> None:
    with serving(model, KEY) as server:
        known = {(method, route.path) for route in server.server.config.app.routes for method in route.methods}
        asked = {(method, path.replace("/tiny", "/{model_id:path}")) for method, path in ROUTES}
        opened = {(m, p) for m, p in known if m != "HEAD"} - asked
        assert opened == {("GET", path) for path in ("/health", *PAGE_ROUTES)}, "a route that is not tried"
        wrong: list[dict[str, str]] = [
            {}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"},
        ]  # fmt: skip
        for method, path in ROUTES:
            for headers in wrong:
                answer = server.client.request(method, path, headers=headers)
                assert error_of(answer, 401)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer" and KEY not in answer.text
        for path in ("/health", *PAGE_ROUTES):
            assert server.client.get(path).status_code == 200 and KEY not in server.client.get(path).text
        right = {"Authorization": f"Bearer {KEY}"}
        assert server.client.get("/v1/models", headers=right).status_code == 200
        assert server.client.post("/v1/chat/completions", json=question(), headers=right).status_code == 200


def test_the_key_is_compared_in_constant_time(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    whole = hmac.compare_digest

    def noted(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return whole(given, wanted)

    monkeypatch.setattr(access.hmac, "compare_digest", noted)
    with serving(model, KEY) as server:
        for given in ("a", KEY[:-1], KEY, f"{KEY}x", "x" * 5000):
            server.client.get("/ready", headers={"Authorization": f"Bearer {given}"})
    assert len(compared) == 5
    assert {len(side) for pair in compared for side in pair} == {32}, "both sides are digests of one length"


@pytest.mark.parametrize(("host", "is_right"), [
    ("localhost", True), ("LOCALHOST:8000", True), ("127.0.0.1:1", True), ("[::1]:8000", True), ("evil.example", False),
    ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("", False),
])  # fmt: skip
def test_a_local_server_answers_to_local_names_alone(local: LocalServer, host: str, is_right: bool) -> None:
    answer = local.client.get("/health", headers={"Host": host})
    if is_right:
        assert answer.status_code == 200
    else:
        assert error_of(answer, 403)["code"] == "bad_host"


def test_answers_are_not_kept_or_guessed_at(local: LocalServer) -> None:
    headers: Any = local.client.get("/v1/models").headers
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers and "access-control-allow-origin" not in headers


def test_keys_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\n")
    assert read_key(file) == KEY
    with pytest.raises(OLMoConfigurationError, match="cannot read the API key"):
        read_key(tmp_path / "none")
    for bad in ("", "short", "with a blank in between", "größer-als-sechzehn"):
        with pytest.raises(OLMoConfigurationError, match="at least 16 printable") as caught:
            checked_key(bad, "a file")
        assert not bad or bad not in str(caught.value)

"""What the page copies for a terminal and a program runs there, and is answered as on the page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser_page import answered, ask, show
from local_server import LocalServer, picture_bytes, serving

from olmo.models.he_molmo.he_molmo import HeMolmo

KEY = "a-key-of-many-letters"
ASKED = "Is \"this\" \\n a $HOME, `a` 'b', 1 \\ 2 or é🐈?"


def copied(page: Any, name: str) -> str:
    page.locator(".copy", has_text=name).first.click()
    page.wait_for_selector(".copy:has-text('Copied')")
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("has_picture", [True, False])
def test_copied_requests_are_answered_alike(
    he_model: HeMolmo, open_page: Any, tmp_path: Path, has_picture: bool
) -> None:
    (tmp_path / "it's $1.png").write_bytes(picture_bytes(64, 48))
    with serving(he_model, KEY, default_max_tokens=6) as running:
        page = open_page(running, is_waited_for=False, permissions=["clipboard-read", "clipboard-write"])
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model:enabled")
        if has_picture:
            show(page, picture_bytes(64, 48), "it's $1.png")
        with page.expect_request("**/v1/chat/completions") as sent:
            card = ask(page, ASKED)
        body = sent.value.post_data_json
        shown = card.locator(".said").inner_text()
        curl, python = copied(page, "curl"), copied(page, "Python")
        assert KEY not in curl + python, "keys are not copied"
        environment = {"PATH": "/usr/bin:/bin", "MOLMO_API_KEY": KEY, "HOME": str(tmp_path)}
        seen = _spied(running)
        if _has("curl"):
            run = ["sh", "-c", curl]
            done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            assert '"chat.completion"' in done.stdout and done.returncode == 0, done.stdout + done.stderr
        run = [sys.executable, "-c", python]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert re.sub(r"\s", "", done.stdout).startswith(re.sub(r"\s", "", shown)) or shown == "(no answer)"
        assert len(seen) == 1 + _has("curl")
        for request in seen:
            assert request["messages"] == body["messages"] and request["selection_ratio"] == body["selection_ratio"]


def test_an_insecure_page_copies_too(local: LocalServer, open_page: Any) -> None:
    page = open_page(local, permissions=["clipboard-read"])
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); }")
    ask(page, "What?")
    assert copied(page, "curl").startswith("curl http://127.0.0.1")
    answered(page)


def _has(program: str) -> int:
    return int(shutil.which(program) is not None)


def _spied(running: LocalServer) -> list[dict[str, Any]]:
    """What is asked of a server from now on, as it was understood."""
    seen: list[dict[str, Any]] = []
    answering = running.server.answering
    begin = answering.begin

    async def noted(request: Any, client: str) -> Any:
        seen.append(request.model_dump(exclude_none=True))
        return await begin(request, client)

    answering.begin = noted  # type: ignore[method-assign]
    return seen

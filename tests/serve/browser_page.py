"""The page of a server in a real browser: where one is found, what it is told, and what it is watched for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "screenshots"
"""Where pictures of the page are left for whoever wants to look; not part of the repository."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2,
}  # fmt: skip
TIMEOUT_MS = 60_000


def browser_program() -> str:
    """Path of a browser; the test is skipped where there is none, or no playwright."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'molmo[test]')")
    named = os.environ.get("MOLMO_BROWSER")
    found = named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed, and MOLMO_BROWSER names no browser")
    return found


def launch_options() -> dict[str, Any]:
    """How the browser is started: with a camera that shows a test picture."""
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # it has none for the superuser, whom containers run as
    return {"executable_path": browser_program(), "args": arguments}


class Watched:
    """What a page asked for, and what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.addresses: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self.addresses.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        # A refused request is written to the console by the browser itself.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)


Open = Callable[..., Any]
"""`open_page(server, **options of the context)`: a new page that shows the server's."""


def says(monkeypatch: pytest.MonkeyPatch, text: str, n_pieces: int = 1) -> None:
    """Make every model answer with `text`, token by token in `n_pieces`, what is left at the end."""
    size = -(-len(text) // n_pieces)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    told: dict[int, int] = {}

    def push(decoder: Any, token_id: int) -> str:
        del token_id
        number = told.get(id(decoder), 0)
        told[id(decoder)] = number + 1
        return pieces[number] if number < len(pieces) - 1 else ""

    def flush(decoder: Any) -> str:
        return "".join(pieces[min(told.pop(id(decoder), 0), len(pieces) - 1) :])

    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.push", push)
    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.flush", flush)


def ask(page: Any, question: str) -> Any:
    """Ask, and wait for the end of the answer; its card."""
    n_before = page.locator(".card").count()
    page.fill("#question", question)
    page.keyboard.press("Enter")
    return answered(page, n_before + 1)


def answered(page: Any, n_cards: int = 1) -> Any:
    """The newest card, once as many as these have their end."""
    from playwright.sync_api import expect

    expect(page.locator(".card .facts")).to_have_count(n_cards, timeout=TIMEOUT_MS)
    return page.locator(".card").first


def show(page: Any, data: bytes, name: str = "seen.png", kind: str = "image/png") -> None:
    """Choose a picture or clip, and wait until it is shown in its shape."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
    page.wait_for_selector('#media [style*="--ratio"]', timeout=TIMEOUT_MS)


def middle(box: dict[str, float]) -> tuple[float, float]:
    """Middle of a rectangle as playwright gives it."""
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

"""Tiny untrained models, and servers that answer with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_page import DESKTOP, TIMEOUT_MS, Open, Watched, browser_program, launch_options
from local_server import LocalServer, serving

from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.molmo.molmo import Molmo, MolmoConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=1", "llm.mlp_hidden_size=32", "vision_backbone.vit.image_size=56",
    "vision_backbone.vit.d_model=24", "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=1",
    "vision_backbone.vit.mlp_hidden_size=32", "vision_backbone.vit_layers=[-1]",
    "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


@pytest.fixture(scope="session")
def model() -> Molmo:
    return Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", TINY)).eval()


@pytest.fixture(scope="session")
def he_model() -> HeMolmo:
    """A HeMolmo, which also reads videos; it keeps the picture tokens of the largest norm."""
    config = MolmoConfig.load(ROOT / "configs" / "molmo-nano", TINY)
    chooses = HeMolmoConfig.from_molmo(config, selection_ratio=0.5, token_scorer={"scorer": "norm"})
    return HeMolmo(chooses, seed=3).eval()


@pytest.fixture(scope="module")
def he_server(he_model: HeMolmo) -> Iterator[LocalServer]:
    """A server of it that takes larger files."""
    with serving(he_model, max_media_bytes=10**6, max_body_bytes=2 * 10**6) as server:
        yield server


@pytest.fixture(scope="module")
def local(model: Molmo) -> Iterator[LocalServer]:
    """The server that most tests ask. Not for the session: tests of training fork and send signals."""
    with serving(model) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running browser. Not for the session: while it runs, the thread has an event loop that others trip over."""
    browser_program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(**launch_options())
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens pages; at the end nothing may have failed in one, or have been asked for elsewhere."""
    opened: list[tuple[str, Any, Watched]] = []

    def opens(server: LocalServer, is_waited_for: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{**DESKTOP, **options})
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        opened.append((server.base, context, Watched(page)))
        page.goto(f"{server.base}/")
        if is_waited_for:
            page.wait_for_selector("#model:enabled")
        return page

    yield opens
    for base, context, watched in opened:
        context.close()
        assert not watched.faults, watched.faults
        elsewhere = [a for a in watched.addresses if not a.startswith((base, f"blob:{base}", "data:"))]
        assert not elsewhere, elsewhere

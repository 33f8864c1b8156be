"""Take the picture of the web page for the docs: the bundled model answers about the example picture.

    python scripts/build_page_picture.py

Needs the extras `serve` and `test`, and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from olmo.models.auto import from_pretrained
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.serve.serve_config import ServeConfig
from olmo.serve.server import Server

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "images" / "page.png"
QUESTIONS = ("What things are there?", "Point to the trees.")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
N_COLOURS = 255
WAIT_MS = 120_000


def page_picture(address: str, browser: str, questions: tuple[str, ...]) -> tuple[bytes, str]:
    """A PNG of the page at an address after these questions about its example, and the text of the last answer."""
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=arguments).new_page(
            viewport={"width": 1120, "height": 700}
        )
        page.goto(address)
        page.wait_for_selector("#model:enabled")
        page.click("#example")
        page.wait_for_selector('#media [style*="--ratio"]')
        for number, question in enumerate(questions):
            page.fill("#question", question)
            page.keyboard.press("Enter")
            page.locator(".copies").nth(number).wait_for(timeout=WAIT_MS)
        page.mouse.move(0, 0)
        return page.screenshot(), page.locator(".said").first.inner_text()


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=None, help="folder of a model; the bundled one without it")
    parser.add_argument("--target", type=Path, default=TARGET, help="PNG to write")
    chosen = parser.parse_args()
    browser = os.environ.get("MOLMO_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"none of {', '.join(BROWSERS)} is installed, and MOLMO_BROWSER names no browser")
    listening, ports = threading.Event(), list[int]()

    def note(port: int) -> None:
        ports.append(port)
        listening.set()

    model = from_pretrained(chosen.model or bundled_model_folder())
    name = Path(chosen.model).name if chosen.model else BUNDLED_MODEL
    server = Server(model, ServeConfig(port=0, model_name=name), on_start=note)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        listening.wait(60)
        data, answer = page_picture(f"http://127.0.0.1:{ports[0]}/", browser, QUESTIONS)
    finally:
        server.drain()
        thread.join()
    with Image.open(io.BytesIO(data)) as taken:
        few = taken.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE)
    few.save(chosen.target, optimize=True)
    print(
        f"{chosen.target.name}: {chosen.target.stat().st_size:,} bytes; {QUESTIONS[-1]!r}: {' '.join(answer.split())}"
    )


if __name__ == "__main__":
    main()

"""The page as a person meets it, in a real browser. Skipped where there is none."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_page import (
    DESKTOP,
    PHONE,
    SHOTS,
    Open,
    answered,
    ask,
    middle,
    says,
    show,
)
from local_server import LocalServer, data_url, picture_bytes, question, serving, slow_steps
from PIL import Image

from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-of-many-letters"
SAYS = (
    'Two <points x1="12.5" y1="20.0" x2="80.0" y2="90.0" alt="cats">cats</points>, '
    'é🐈, a <point x="50" y="50">dog</point>.'
)
ON, SHORT = {"max_pixels": 10**6, "max_media_bytes": 10**6, "max_body_bytes": 2 * 10**6}, {"default_max_tokens": 12}


@pytest.fixture(scope="module")
def server(model: Molmo) -> Iterator[LocalServer]:
    with serving(model, **ON, **SHORT) as running:
        yield running


def plain_picture(width: int, height: int, kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, kind)
    return out.getvalue()


def shot(page: Any, name: str) -> None:
    """Leave a picture of the page for whoever wants to look."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


@pytest.mark.parametrize("size", [(640, 400), (90, 230)])
@pytest.mark.parametrize(("name", "device"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_points_lie_where_the_server_says(
    server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch, name: str, device: dict, size: tuple
) -> None:
    says(monkeypatch, SAYS)
    page, data = open_page(server, **device), picture_bytes(*size)
    show(page, data)
    ask(page, "Point to the animals.")
    told = server.client.post("/v1/points", json=question("Point to the animals.", data_url(data))).json()["points"]
    shown = page.locator("#media img").bounding_box()
    assert shown["width"] / shown["height"] == pytest.approx(size[0] / size[1], rel=0.02)
    marks = page.locator(".mark")
    assert marks.count() == len(told) == 3
    for number, point in enumerate(told):
        x, y = middle(marks.nth(number).bounding_box())
        assert x == pytest.approx(shown["x"] + point["x_px"] * shown["width"] / size[0], abs=0.75)
        assert y == pytest.approx(shown["y"] + point["y_px"] * shown["height"] / size[1], abs=0.75)
    assert page.locator(".said").inner_text().split() == ["Two", "cats", "1", "2", ",", "é🐈,", "a", "dog", "3", "."]
    shot(page, f"points_{name}_{size[0]}x{size[1]}")


def test_text_and_points_light_up_together(
    server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, SAYS)
    page = open_page(server)
    show(page, picture_bytes(640, 400))
    ask(page, "Point.")

    def lit() -> tuple[list[str], list[str]]:
        marks = page.locator(".mark.is-lit").evaluate_all("all => all.map(one => one.dataset.points)")
        chips = page.locator(".said .is-lit").evaluate_all("all => all.map(one => one.textContent)")
        return marks, chips

    page.locator(".chip-name").first.hover()
    assert lit() == (["0", "1"], ["cats", "1", "2"])
    shot(page, "linked")
    page.locator(".mark").nth(2).hover()
    assert lit() == (["2"], ["dog", "3"])
    assert page.locator(".mark").nth(2).locator(".mark-name").is_visible()
    page.locator(".chip-number").nth(1).focus()
    page.mouse.move(5, 5)
    page.locator("#question").focus()
    assert lit() == ([], [])
    page.locator(".chip-number").nth(1).focus()
    assert lit() == (["1"], ["cats", "2"])


def test_an_answer_is_shown_while_it_comes_and_can_be_stopped(
    model: Molmo, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_steps(monkeypatch, 0.1)
    says(monkeypatch, f'Well, {"so " * 200}<point x="5" y="5">end</point>', n_pieces=200)
    with serving(model, **ON, default_max_tokens=200) as running:
        page = open_page(running)
        show(page, picture_bytes(64, 64))
        page.fill("#question", "Tell me all.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".said:has-text('so so so')")
        assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
        page.click("#stop")
        card = answered(page)
        assert "Stopped" in card.inner_text() and "so so" in card.inner_text()
        assert page.locator("#send").is_visible() and not page.locator(".at-work").count()
        running.idle()
        assert running.metric("molmo_cancelled_requests_total") == 1


def test_a_tag_that_is_not_whole_is_not_shown(model: Molmo, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch, 0.15)
    says(monkeypatch, 'Here <points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="a">a</points>', n_pieces=30)
    with serving(model, **ON, default_max_tokens=34) as running:
        page = open_page(running)
        page.fill("#question", "Point.")
        page.keyboard.press("Enter")
        page.wait_for_selector(".at-work.pointing")
        assert page.locator(".said").inner_text().split() == ["Here", "pointing"]
        assert "<" not in answered(page).inner_text()


def test_a_picture_is_dropped_or_pasted(server: LocalServer, open_page: Open) -> None:
    page, data = open_page(server), list(picture_bytes(50, 30))
    for kind, place in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, place, data]) => {
              const carried = new DataTransfer();
              carried.items.add(new File([new Uint8Array(data)], `${kind}.png`, { type: "image/png" }));
              const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
              document.dispatchEvent(new Kind(kind, { [place]: carried, bubbles: true, cancelable: true }));
            }""",
            [kind, place, data],
        )
        page.wait_for_selector(f"#file-name:has-text('{kind}.png')")
        assert page.locator("#media img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 50


def test_a_photo_is_taken(server: LocalServer, open_page: Open) -> None:
    page = open_page(server, permissions=["camera"])
    page.click("#photo")
    page.wait_for_selector("#camera[open]")
    page.click("#camera-cancel")
    page.wait_for_selector("#camera", state="hidden")
    assert page.locator("#empty").is_visible()
    page.click("#photo")
    page.wait_for_selector("#camera[open]")
    page.click("#shutter")
    page.wait_for_selector("#file-name:has-text('photo.jpg')")
    assert page.locator("#media img").evaluate("one => one.decode().then(() => one.naturalWidth)") > 100


def test_on_a_phone_the_phone_takes_the_photo(server: LocalServer, open_page: Open) -> None:
    page = open_page(server, **PHONE)
    with page.expect_file_chooser() as chosen:
        page.click("#photo")
    assert chosen.value.element.get_attribute("capture") == "environment"


def test_the_example_is_one_click_away(server: LocalServer, open_page: Open) -> None:
    page = open_page(server)
    page.click("#example")
    page.click("text=What things are there?")
    assert "tokens in" in answered(page).inner_text()


def test_a_picture_that_the_server_cannot_read_is_redrawn(server: LocalServer, open_page: Open) -> None:
    page = open_page(server)
    show(page, plain_picture(40, 30, "BMP"), "old.bmp", "image/bmp")
    assert page.locator("#file-name").inner_text() == "old.jpg"
    assert "tokens in" in ask(page, "What is it?").inner_text()


def test_errors_say_what_is_wrong(model: Molmo, open_page: Open) -> None:
    with serving(model, **SHORT, max_prompt_chars=100) as running:
        page = open_page(running)
        page.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture"})
        page.wait_for_selector("#notice:has-text('This is not a picture')")
        page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"0"})
        page.wait_for_selector("#notice:has-text('This model reads pictures, not clips')")
        noise = {"name": "noise.png", "mimeType": "image/png", "buffer": picture_bytes(900, 500)}
        page.set_input_files("#file", noise)
        page.wait_for_selector("#notice:has-text('The file is too large')")
        show(page, plain_picture(900, 500, "PNG"))
        assert page.locator("#notice").is_hidden()
        refused = ask(page, "Too many pixels?")
        assert refused.locator("[role=alert] strong").inner_text() == "Too large"
        assert "450,000 pixels, over the limit of 300,000" in refused.inner_text()
        assert "101 characters" in ask(page, "x" * 101).inner_text()
        shot(page, "errors")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        assert "The server cannot be reached" in ask(page, "Anybody?").inner_text()


def test_the_key_stays_in_the_tab(model: Molmo, open_page: Open) -> None:
    with serving(model, KEY, **SHORT) as running:
        page = open_page(running, is_waited_for=False)
        page.wait_for_selector("#key-dialog[open]")
        shot(page, "key")
        page.keyboard.type("a-wrong-key-of-letters")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-wrong:visible")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model:enabled")
        card = ask(page, "What can you do?")
        assert "tokens in" in card.inner_text() and KEY not in page.content()
        kept = page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]")
        assert kept == [0, "", [KEY]]
        page.reload()
        page.wait_for_selector("#model:enabled")
        other = open_page(running, is_waited_for=False)
        other.wait_for_selector("#key-dialog[open]")


def test_it_is_used_by_keyboard_alone(server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, SAYS)
    page = open_page(server)

    def tab_to(selector: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none" or selector == "#question", "the focus cannot be seen"
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to("#example")
    page.keyboard.press("Enter")
    page.wait_for_selector("#question:focus")
    page.keyboard.type("Point to")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the cats.")
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator(".asked").inner_text() == "Point to\nthe cats."
    tab_to(".chip-number")
    assert page.locator(".mark.is-lit").count() == 1
    tab_to(".copy")


def test_it_is_readable_in_light_and_dark(
    server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, SAYS)
    seen = {}
    for scheme in ("light", "dark"):
        page = open_page(server, color_scheme=scheme)
        show(page, picture_bytes(64, 48))
        ask(page, "Point.")
        for selector in (
            ".said",
            ".asked",
            ".facts",
            ".chip-name",
            "#send",
            ".copy",
            ".keys",
            "#file-name",
            ".model .label",
        ):
            colours = page.locator(selector).first.evaluate(_COLOURS)
            assert contrast(*colours) >= 4.5, f"{selector} in {scheme}: {colours}"
        seen[scheme] = luminance(page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor"))
        shot(page, scheme)
    assert seen["light"] > 0.8 and seen["dark"] < 0.05


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_all_of_it(
    server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    says(monkeypatch, SAYS + " " + "verylongword" * 20)
    page = open_page(server, **{**PHONE, "viewport": {"width": width, "height": 700}})
    shot(page, f"phone_empty_{width}")
    show(page, picture_bytes(300, 200), "a-picture-with-a-rather-long-name-of-its-file.png")
    ask(page, "Point to the cats and to the dog, and say something " + "long" * 20)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#question", "#send", "#media img", ".said", ".copy >> nth=1", "#other-photo"):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, selector
    shot(page, f"phone_{width}")


def test_kept_patches_are_shown(he_model: HeMolmo, he_server: LocalServer, open_page: Open) -> None:
    data = picture_bytes(90, 60)
    with serving(he_model, **ON, **SHORT) as running:
        page = open_page(running)
        assert page.locator("#ratio-value").inner_text() == "50 %"
        show(page, data)
        page.locator("#ratio").focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        assert page.locator("#ratio-value").inner_text() == "25 %"
        card = ask(page, "What?")
        asked = question("What?", data_url(data), include_details=True, selection_ratio=0.25, max_tokens=12)
        told = running.ask(**asked).json()["olmo"]["selection"]
        assert f"{told['kept']} of {told['total']} picture tokens kept" in card.inner_text()
        for left, top, right, bottom, is_kept, _ in told["pictures"][0]["tokens"]:
            alpha = page.locator("#kept").evaluate(_ALPHA, [(left + right) / 2, (top + bottom) / 2])
            assert (alpha < 10) == bool(is_kept)
        over, under = (page.locator(s).bounding_box() for s in ("#kept", "#media img"))
        assert over == pytest.approx(under, abs=0.5)
        shot(page, "kept")
        page.locator("#kept-switch").click()
        assert page.locator("#kept").is_hidden()


def test_a_clip_is_asked_about(he_server: LocalServer, open_page: Open) -> None:
    page = open_page(he_server)
    assert page.locator(".lead").inner_text() == "Drop a picture or a clip here"
    show(page, (ROOT / "examples" / "clips" / "moving.webp").read_bytes(), "moving.webp", "image/webp")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.fill("#question", "What happens?")
        page.keyboard.press("Enter")
    part = sent.value.post_data_json["messages"][0]["content"][1]
    assert part["type"] == "video_url" and part["video_url"]["url"].startswith("data:image/webp;base64,")
    assert "picture tokens kept" in answered(page).inner_text()
    assert page.locator("#kept").is_hidden()


def test_an_answer_is_shown_as_text(server: LocalServer, open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    says(monkeypatch, f'{bad}<point x="5" y="5" alt="z">{bad[:28].replace("<", "&lt;")}</point>')
    page = open_page(server)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    show(page, picture_bytes(60, 60), "<b>x.png")
    card = ask(page, "<i>What?</i>")
    assert bad in card.inner_text() and "<i>What?</i>" in card.inner_text()
    assert not page.locator(".said img, .said script, .asked i, #file-name b, .mark img").count()


_COLOURS = """one => {
  let place = one;
  while (/, 0\\)$|transparent/.test(getComputedStyle(place).backgroundColor)) place = place.parentElement;
  return [getComputedStyle(one).color, getComputedStyle(place).backgroundColor];
}"""
_ALPHA = """(one, [x, y]) =>
  one.getContext("2d").getImageData(Math.floor(x * one.width), Math.floor(y * one.height), 1, 1).data[3]"""


def luminance(colour: str) -> float:
    """Relative luminance of a colour as a browser writes it, as WCAG defines it."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast of two colours, as WCAG defines it."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)

"""The page without a browser: what is served, to whom, and what it may do."""

from __future__ import annotations

import re
from pathlib import Path

from local_server import LocalServer, error_of, serving

from olmo.models.molmo.molmo import Molmo
from olmo.serve.page_files import PAGE_HEADERS, PAGE_ROUTES, page_files

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_served_with_its_types(local: LocalServer) -> None:
    for path, file in page_files().items():
        answer = local.client.get(path)
        assert answer.status_code == 200 and answer.content == file.data
        assert answer.headers["content-type"] == file.media_type
    assert "<title>molmo</title>" in local.client.get("/").text
    error_of(local.client.get("/page/../page_files.py"), 404)
    error_of(local.client.get("/page/page.py"), 404)
    error_of(local.client.post("/"), 405)


def test_every_file_of_the_folder_is_served() -> None:
    names = {path.name for path in (ROOT / "olmo" / "serve" / "page").iterdir()}
    assert names == {name for name, _ in PAGE_ROUTES.values()}


def test_a_server_can_do_without_the_page(model: Molmo) -> None:
    with serving(model, page=False) as server:
        for path in PAGE_ROUTES:
            error_of(server.client.get(path), 404)
        assert server.client.get("/v1/models").status_code == 200


def test_the_page_loads_nothing_from_elsewhere(local: LocalServer) -> None:
    headers = local.client.get("/").headers
    assert {name: headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    for path, file in page_files().items():
        if file.media_type.startswith("image/"):
            continue
        text = file.data.decode().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?://|//[\w-]+\.\w|@import", text), f"{path} names another place"


def test_nothing_stands_inline_and_no_text_becomes_markup() -> None:
    shown = {path: file.data.decode() for path, file in page_files().items() if not path.endswith(".png")}
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", shown["/"])
    for path, text in shown.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", text), path


def test_the_example_is_the_picture_of_the_examples() -> None:
    assert page_files()["/page/example.png"].data == (ROOT / "examples" / "pictures" / "scene.png").read_bytes()


def test_files_of_the_page_are_short() -> None:
    for path in (ROOT / "olmo" / "serve" / "page").iterdir():
        if path.suffix != ".png":
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name

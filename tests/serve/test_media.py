from __future__ import annotations

import asyncio
import base64
import io
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_server import data_url, picture_bytes
from PIL import Image

from olmo.data import public_http
from olmo.data.public_http import FetchError, FetchLimits, fetch
from olmo.serve.errors import ApiError
from olmo.serve.media import Media, is_picture, is_video, read_below, read_data_url
from olmo.serve.serve_config import ServeConfig


def refused(url: str, **changes: Any) -> ApiError:
    """What a server says to a picture at an address that it must not look at."""

    async def ask() -> None:
        media = Media(ServeConfig(**changes))
        try:
            await media.picture(url)
        finally:
            await media.close()

    with pytest.raises(ApiError) as caught:
        asyncio.run(ask())
    return caught.value


def test_data_addresses() -> None:
    data = picture_bytes()
    assert read_data_url(data_url(data), 10_000) == data
    assert read_data_url(data_url(data, "IMAGE/anything;charset=x"), 10_000) == data


@pytest.mark.parametrize("url", [
    "data:", "data:image/png", "data:image/png,abc", "data:image/png;base64", "data:image/png;base64,", "data:,",
    "data:image/png;base64,@@@@", "data:image/png;base64,QUJ", "data:image/png;base64,QUJD====",
    "data:image/png;base64,QU JD", "data:image/png;base64,QUJD\n", "data:image/png;base64,äöü=",
    "data:text/html;base64,QUJD", "data:application/x-python-pickle;base64,QUJD", "data:image/png;base64;x,QUJD",
    "data:image/png;" + "x" * 300 + ";base64,QUJD",
])  # fmt: skip
def test_data_addresses_that_are_wrong(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_data_url(url, 10_000)
    assert caught.value.status == 400


def test_data_addresses_that_hold_too_much() -> None:
    for n in (101, 103, 10_000):
        with pytest.raises(ApiError) as caught:
            read_data_url(data_url(b"x" * n), 100)
        assert caught.value.status == 413
    assert len(read_data_url(data_url(b"x" * 100), 100)) == 100


@pytest.mark.parametrize("url", [
    "http://127.0.0.1/a.png", "https://example.org/a.png", "HTTP://x/", "file:///etc/passwd", "ftp://x/a.png",
    "/etc/passwd", "a.png", "", "gopher://x", "javascript:1", "blob:x", "//x/a.png", " data:image/png;base64,QUJD",
])  # fmt: skip
def test_by_default_nothing_is_fetched_and_no_file_is_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("a name was looked up"))
    monkeypatch.setattr(os, "open", lambda *a, **k: pytest.fail("a file was opened"))
    error = refused(url)
    assert error.status == 400 and error.code == "unsupported_url"


class Connections:
    """Stands for the socket class: notes what is connected to, and answers each with the next given text."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.made = list(answers), list[Any]()

    def __call__(self, *_: Any) -> Connections:
        return self

    def settimeout(self, _: Any) -> None:
        pass

    def connect(self, address: Any) -> None:
        self.made.append(address)
        if not self.answers:
            raise ConnectionRefusedError("nobody listens")

    def sendall(self, _: bytes) -> None:
        pass

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self.answers.pop(0))

    def close(self) -> None:
        pass


def network(monkeypatch: pytest.MonkeyPatch, made: Connections, *answers: str) -> list[str]:
    """Names are looked up here instead: the k-th time the k-th answer, then the last. Returns the names."""
    asked: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    own = SimpleNamespace(getaddrinfo=look_up, socket=made, SOCK_STREAM=socket.SOCK_STREAM, gaierror=socket.gaierror)
    monkeypatch.setattr(public_http, "socket", own)
    return asked


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.0.0.7", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fe80::1",
    "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "224.0.0.1", "ff02::1",
])  # fmt: skip
def test_a_listed_host_that_leads_to_a_private_address_is_not_asked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback, private, link-local and shared addresses, also in the clothes of IPv6."""
    asked = network(monkeypatch, made := Connections(), address)
    error = refused("https://pictures.example/a.png", remote_hosts=["pictures.example"])
    assert error.status == 400 and error.code == "fetch_failed"
    assert address not in str(error), "what a name stands for inside is not told"
    assert asked == ["pictures.example"] and not made.made


@pytest.mark.parametrize("url", [
    "http://other.example/a.png", "http://pictures.example.evil.example/", "http://pictures.example@evil.example/",
    "http://evil.example#@pictures.example/", "http://evil.example\\@pictures.example/", "http://127.0.0.1/",
    "http://[::1]/", "http://2130706433/", "http://0x7f.1/", "http://pictures.example\n.evil.example/", "http://",
    "https://xn--pictures-.example/",
])  # fmt: skip
def test_only_listed_hosts_are_looked_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = network(monkeypatch, made := Connections(), "93.184.216.34")
    assert refused(url, remote_hosts=["pictures.example"]).code == "fetch_failed"
    assert not asked and not made.made


def test_names_below_a_listed_one() -> None:
    hosts = frozenset({"a.example", "*.b.example"})
    for name, is_in in (("A.example.", True), ("x.a.example", False), ("x.b.example", True), ("x.y.b.example", True),
                        ("b.example", False), ("xb.example", False)):  # fmt: skip
        assert public_http._is_listed(name, hosts) is is_in


def test_a_name_that_changes_its_meaning_is_connected_to_what_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second lookup would lead here, so there is none."""
    made = Connections(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    asked = network(monkeypatch, made, "93.184.216.34", "127.0.0.1")
    assert fetch("http://pictures.example/a", FetchLimits(hosts=frozenset({"pictures.example"}))) == b"abc"
    assert asked == ["pictures.example"] and made.made == [("93.184.216.34", 80)]


@pytest.mark.parametrize(("target", "reason"), [
    ("http://127.0.0.1/", "not among"), ("http://other.example/", "not among"),
    ("file:///etc/passwd", "status 302"), ("http://pictures.example/again", "private address"),
])  # fmt: skip
def test_each_redirect_is_checked_again(target: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Connections(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    network(monkeypatch, made, "93.184.216.34", "10.0.0.1")
    with pytest.raises(FetchError, match=reason) as caught:
        fetch("http://pictures.example/a", FetchLimits(hosts=frozenset({"pictures.example"})))
    assert made.made == [("93.184.216.34", 80)], caught.value


def test_files_are_read_below_the_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    data = picture_bytes()
    (root / "in" / "a b.png").write_bytes(data)
    (tmp_path / "secret.png").write_bytes(data)
    (tmp_path / "rootless.png").write_bytes(data)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "way").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    for url in ("file:in/a%20b.png", f"file://{root}/in/a%20b.png", f"file://localhost{root}/in/a b.png"):
        assert read_below(root, url, 10**6) == data
    for url in ("file:../secret.png", "file:in/../../secret.png", "file:%2e%2e/secret.png", "file:link.png",
                "file:way/secret.png", f"file://{tmp_path}/secret.png", "file:///etc/passwd", "file:in",
                "file:pipe.png", "file:in/none.png", "file:in/a%20b.png%00.png", "file://evil.example/in/a.png",
                "file:", f"file://{tmp_path}/rootless.png"):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            read_below(root, url, 10**6)
        assert caught.value.status == 400 and str(tmp_path) not in str(caught.value)
    with pytest.raises(ApiError) as caught:
        read_below(root, "file:in/a%20b.png", 100)
    assert caught.value.status == 413


def test_what_a_file_is_its_first_bytes_say() -> None:
    kinds = {kind: picture_bytes(8, 8, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")}
    assert [kind for kind, data in kinds.items() if is_picture(data)] == ["PNG", "JPEG", "WEBP", "GIF"]
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    others = (
        b"",
        b"<svg/>",
        b"%PDF-1.4",
        array.getvalue(),
        b"PK\x03\x04",
        b"\x80\x04.",
        b"RIFF\0\0\0\0AVI ",
        b"GIF88a",
    )
    assert not any(is_picture(data) or is_video(data) for data in others)
    assert is_video(b"\0\0\0\x18ftypmp42") and is_video(b"\x1a\x45\xdf\xa3") and not is_video(kinds["JPEG"])
    for data in others[1:]:
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        assert refused(url).code == "invalid_media"


def test_a_picture_in_an_animation_is_its_first_frame() -> None:
    frames, out = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")], io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])

    async def ask() -> np.ndarray:
        media = Media(ServeConfig())
        try:
            return await media.picture(data_url(out.getvalue(), "image/gif"))
        finally:
            await media.close()

    pixels = asyncio.run(ask())
    assert pixels.shape == (6, 8, 3) and (pixels == [255, 0, 0]).all()

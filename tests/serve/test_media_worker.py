from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from local_server import picture_bytes
from PIL import Image

from olmo.exceptions import OLMoError
from olmo.preprocessing.image import load_image
from olmo.serve.media_worker import decode, read_message, told_message, write_message


def ask(data: bytes, max_pixels: int = 10**6) -> tuple[dict[str, object], memoryview]:
    return decode({"kind": "image", "max_pixels": max_pixels}, data)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header tells a size that its content does not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pixels_are_those_that_load_image_reads(kind: str) -> None:
    data = picture_bytes(33, 21, kind)
    found, pixels = ask(data)
    assert found == {"ok": True, "shape": [21, 33, 3]}
    np.testing.assert_array_equal(np.frombuffer(pixels, np.uint8).reshape(21, 33, 3), load_image(data, 10**6))


def test_a_picture_of_one_pixel_is_a_picture() -> None:
    found, pixels = ask(picture_bytes(1, 1))
    assert found["shape"] == [1, 1, 3] and len(pixels) == 3


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 2**30)])
def test_sizes_are_read_from_the_header_before_anything_is_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *a: pytest.fail("pixels were decoded"))
    found, pixels = ask(png(width, height))
    assert found["ok"] is False and found["is_too_large"] is True and not len(pixels)


def test_a_bomb_is_refused() -> None:
    """A few kilobytes that are a hundred million pixels."""
    out = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(out, "PNG")
    assert len(out.getvalue()) < 20_000
    found, _ = ask(out.getvalue(), 50_000_000)
    assert found["is_too_large"] is True and "100,000,000" in str(found["message"])


@pytest.mark.parametrize("data", [
    picture_bytes()[:100], picture_bytes(kind="JPEG")[:200], picture_bytes(kind="WEBP")[:90], png(10, 10, b"short"),
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8X", b"GIF89a" + b"\xff" * 500,
    png(0, 10), png(10, 0),
])  # fmt: skip
def test_what_is_damaged_or_cut_is_an_error(data: bytes) -> None:
    found, pixels = ask(data)
    assert found["ok"] is False and found["message"] and not len(pixels)


def test_mutated_files_are_pixels_or_an_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        whole = np.frombuffer(picture_bytes(24, 18, kind), np.uint8)
        for _ in range(60):
            changed = whole.copy()
            changed[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            found, pixels = ask(changed.tobytes())
            assert found["ok"] in (True, False)
            assert len(pixels) == (np.prod(found["shape"]) if found["ok"] else 0)


def test_no_address_of_memory_is_told() -> None:
    """What Pillow and FFmpeg say may name objects by where they lie, which is half of an attack."""
    told = told_message(
        OLMoError("cannot identify image file <_io.BytesIO object at 0x7fc7ac6e99e0>, mp4 @ 0x55d0c1a2")
    )
    assert told == "cannot identify image file (...), mp4 @ (...)"
    assert len(told_message(OLMoError("x" * 10_000))) <= 400
    request = {"kind": "video", "max_pixels": 10**6, "timeout_s": 9.0, "max_bytes": 10**6}
    for start in (b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP"):
        found, _ = decode(request, start + b"\xff" * 100)
        assert found["ok"] is False and found["message"] and "0x" not in str(found["message"])


def test_want_of_memory_is_an_error_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    found, _ = ask(picture_bytes())
    assert found["is_too_large"] is True and "memory" in str(found["message"])


def test_messages_are_read_as_written() -> None:
    stream = io.BytesIO()
    write_message(stream, {"kind": "image"}, b"abc")
    write_message(stream, {"ok": True})
    stream.seek(0)
    assert read_message(stream) == ({"kind": "image", "n_bytes": 3}, b"abc")
    assert read_message(stream) == ({"ok": True, "n_bytes": 0}, b"")
    assert read_message(stream) is None


def test_a_walk_through_many_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One keyframe and a long way from it: the frames in between are decoded too, and count."""
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.codec_context.gop_size = 64, 48, 600
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90 + i, np.uint8))))
        container.mux(stream.encode())
    request = {
        "kind": "video", "max_pixels": 10**6, "sampling": "uniform", "max_frames": 3, "max_fps": None, "seed": 0,
        "timeout_s": 60.0, "max_bytes": 10**8,
    }  # fmt: skip
    found, pixels = decode(request, out.getvalue())
    assert found["ok"] is True and found["shape"] == [3, 48, 64, 3] and len(pixels) == 3 * 48 * 64 * 3
    monkeypatch.setattr("olmo.serve.media_worker._MAX_WALK", 4)
    found, _ = decode(request, out.getvalue())
    assert found["ok"] is False and "over the limit of 4" in str(found["message"])
    small, _ = decode({**request, "max_pixels": 1000}, out.getvalue())
    assert small["ok"] is False and "64x48" in str(small["message"])

"""Reading pictures: every kind gives upright uint8 RGB, and every fault one error that names the file."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec, load_image

LIMIT = 10_000


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def file_bytes(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def test_path_bytes_pil_and_array_give_the_same_pixels(rgb: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    for given in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        Image.open(path),
        Image.fromarray(rgb),
        rgb,
    ):
        pixels = load_image(given, LIMIT)
        np.testing.assert_array_equal(pixels, rgb)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_allowed_formats_are_read(form: str) -> None:
    pixels = load_image(file_bytes(Image.new("RGB", (16, 8), (200, 100, 50)), form), LIMIT)
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "SGI"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(OLMoInputError, match=r"formats: JPEG, PNG.*Convert"):
        load_image(file_bytes(Image.new("RGB", (16, 16)), form), LIMIT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = load_image(file_bytes(Image.fromarray(stored), form, exif=exif), LIMIT)
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](stored)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() < 40


@pytest.mark.parametrize("value", [0, 9, 77])
def test_unknown_orientation_counts_as_upright(rgb: np.ndarray, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(load_image(file_bytes(Image.fromarray(rgb), exif=exif), LIMIT), rgb)


def test_broken_exif_counts_as_upright(rgb: np.ndarray) -> None:
    image = Image.fromarray(rgb)
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage"
    np.testing.assert_array_equal(load_image(image, LIMIT), rgb)


def test_alpha_is_put_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    for x, value in enumerate([(10, 20, 30, 255), (10, 20, 30, 0), (0, 100, 200, 128)]):
        rgba.putpixel((x, 0), value)
    expected = [[10, 20, 30], [255, 255, 255], [127, 177, 227]]
    np.testing.assert_array_equal(load_image(rgba, LIMIT)[0], expected)
    np.testing.assert_array_equal(load_image(np.asarray(rgba), LIMIT)[0], expected)
    np.testing.assert_array_equal(load_image(file_bytes(rgba), LIMIT)[0], expected)


def test_gray_with_alpha_is_put_on_white() -> None:
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (40, 0))
    np.testing.assert_array_equal(load_image(image, LIMIT)[0], [[40] * 3, [255] * 3])
    np.testing.assert_array_equal(load_image(image.convert("La"), LIMIT)[0], [[40] * 3, [255] * 3])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_transparent_palette_is_put_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = load_image(file_bytes(image, transparency=transparency), LIMIT)
    np.testing.assert_array_equal(pixels[0], [[10, 20, 30], [255, 255, 255]])


def test_transparent_colour_of_rgb_and_gray_is_put_on_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    pixels = load_image(file_bytes(image, transparency=(9, 9, 9)), LIMIT)
    np.testing.assert_array_equal(pixels[0], [[1, 2, 3], [255, 255, 255]])
    gray = Image.new("L", (2, 1), 5)
    gray.putpixel((1, 0), 9)
    pixels = load_image(file_bytes(gray, transparency=9), LIMIT)
    np.testing.assert_array_equal(pixels[0], [[5] * 3, [255] * 3])


def test_palette_gray_and_one_bit() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(load_image(palette, LIMIT)[0], [[10, 20, 30], [200, 0, 0]])
    np.testing.assert_array_equal(load_image(Image.new("L", (1, 1), 77), LIMIT), [[[77] * 3]])
    np.testing.assert_array_equal(load_image(Image.new("1", (1, 1), 1), LIMIT), [[[255] * 3]])
    np.testing.assert_array_equal(load_image(np.array([[7, 8]], np.uint8), LIMIT), [[[7] * 3, [8] * 3]])
    np.testing.assert_array_equal(load_image(np.array([[[7], [8]]], np.uint8), LIMIT), [[[7] * 3, [8] * 3]])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "PA"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    pixels = load_image(Image.new(mode, (4, 3)), LIMIT)
    assert pixels.shape == (3, 4, 3)
    assert pixels.dtype == np.uint8


def test_cmyk_jpeg_has_its_colours() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    pixels = load_image(file_bytes(image, "JPEG", quality=100), LIMIT)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(form: str) -> None:
    values = np.array([[0, 128, 129, 257, 25700, 32896, 65535]], np.uint16)
    pixels = load_image(file_bytes(Image.fromarray(values), form), LIMIT)
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 1, 1, 100, 128, 255])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_mode_i_has_the_range_that_its_values_show() -> None:
    wide, narrow = np.array([[0, 65535]], np.int32), np.array([[0, 200]], np.int32)
    np.testing.assert_array_equal(load_image(Image.fromarray(wide), LIMIT)[0, :, 0], [0, 255])
    np.testing.assert_array_equal(load_image(Image.fromarray(narrow), LIMIT)[0, :, 0], [0, 200])
    for values in ([[-1, 5]], [[0, 70000]]):
        with pytest.raises(OLMoInputError, match="0 to 65535"):
            load_image(Image.fromarray(np.array(values, np.int32)), LIMIT)


def test_floating_point_picture_is_refused() -> None:
    with pytest.raises(OLMoInputError, match="floating-point"):
        load_image(Image.fromarray(np.zeros((2, 2), np.float32)), LIMIT)


def test_animation_gives_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for form in ("GIF", "WEBP", "TIFF"):
        data = file_bytes(frames[0], form, save_all=True, append_images=frames[1:])
        assert np.abs(load_image(data, LIMIT).astype(int) - (255, 0, 0)).max() < 4


def test_nothing_given_is_changed(rgb: np.ndarray) -> None:
    before = rgb.copy()
    image = Image.fromarray(np.dstack([rgb, rgb[..., :1]]))
    bytes_before = image.tobytes()
    load_image(rgb, LIMIT)
    load_image(image, LIMIT)
    np.testing.assert_array_equal(rgb, before)
    assert image.tobytes() == bytes_before
    assert image.mode == "RGBA"


def test_views_with_odd_strides_are_read(rgb: np.ndarray) -> None:
    pixels = load_image(rgb[::-2, ::-1], LIMIT)
    np.testing.assert_array_equal(pixels, rgb[::-2, ::-1])
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((4, 4, 3)), "float64.*0..255.*x \\* 255"),
        (np.full((4, 4, 3), np.nan, np.float32), "48 of its values are NaN"),
        (np.zeros((4, 4, 3), np.uint16), "uint16.*257"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\[1, 4, 4, 3\]"),
        (np.zeros(4, np.uint8), r"\[4\]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((200, 200, 3), np.uint8), "40,000 pixels, over the limit of 10,000"),
    ],
)
def test_wrong_arrays_say_what_is_wrong(array: np.ndarray, match: str) -> None:
    with pytest.raises(OLMoInputError, match=match):
        load_image(array, LIMIT)


@pytest.mark.parametrize("given", [None, 3, [1, 2], {"image": 1}])
def test_other_types_are_refused(given: object) -> None:
    with pytest.raises(OLMoInputError, match="cannot read a picture from"):
        load_image(given, LIMIT)


def test_urls_are_not_fetched() -> None:
    with pytest.raises(OLMoInputError, match="not fetched"):
        load_image("https://example.org/a.png", LIMIT)


def test_missing_folder_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    cases = [
        ("none.png", "does not exist"),
        (".", "is a folder"),
        ("empty.png", "0 bytes"),
        ("text.png", "starts with b'not a pi'"),
    ]
    for name, match in cases:
        with pytest.raises(OLMoInputError, match=match) as caught:
            load_image(tmp_path / name, LIMIT)
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(OLMoInputError, match="does not exist"):
        load_image("a\0b.png", LIMIT)
    with pytest.raises(OLMoInputError, match="0 bytes"):
        load_image(b"", LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_files_never_raise_anything_else(form: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = file_bytes(Image.fromarray(pixels), form)
    n_refused = 0
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            load_image(data[:length], LIMIT)
        except OLMoInputError:
            n_refused += 1
    assert n_refused > 30


def test_truncation_is_named() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = file_bytes(Image.fromarray(pixels), "JPEG")
    for length in (len(data) // 3, len(data) - 100):  # inside the header, inside the pixels
        with pytest.raises(OLMoInputError, match="damaged or truncated"):
            load_image(data[:length], LIMIT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damaged_files_never_raise_anything_else(form: str) -> None:
    rng = np.random.default_rng(2)
    data = np.frombuffer(file_bytes(Image.new("RGB", (20, 20), (9, 80, 200)), form), np.uint8)
    for _ in range(60):
        broken = data.copy()
        broken[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert load_image(broken.tobytes(), LIMIT).shape[2] == 3
        except OLMoInputError:
            pass


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    with pytest.raises(OLMoInputError, match=r"300x200 = 60,000 pixels, over the limit of 10,000"):
        load_image(png_header(300, 200), LIMIT)


@pytest.mark.parametrize("size", [(10_000, 9_500), (15_000, 15_000), (60_000, 60_000)])
def test_bombs_are_refused_whatever_the_limit(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit = Image.MAX_IMAGE_PIXELS
        with pytest.raises(OLMoInputError, match=r"over the limit|too large"):
            load_image(png_header(*size), 10**12)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_pil_picture_over_the_limit_is_refused() -> None:
    with pytest.raises(OLMoInputError, match="over the limit"):
        load_image(Image.new("L", (200, 200)), LIMIT)
    with pytest.raises(OLMoInputError, match="no pixels"):
        load_image(Image.new("L", (0, 3)), LIMIT)


def test_spec_of_even_and_odd_grids() -> None:
    clip = ImageSpec(image_size=336, patch_size=14, mean=(0, 0, 0), std=(1, 1, 1))
    assert (clip.grid, clip.n_patches, clip.tokens_h, clip.tokens_w, clip.tokens_per_crop) == (24, 576, 12, 12, 144)
    odd = ImageSpec(image_size=378, patch_size=14, pool_h=2, pool_w=3, mean=(0, 0, 0), std=(1, 1, 1))
    assert (odd.grid, odd.tokens_h, odd.tokens_w, odd.tokens_per_crop) == (27, 14, 9, 126)

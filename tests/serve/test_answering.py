"""Models of every kind behind a server: videos, and a share of picture tokens."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from local_server import LocalServer, data_url, error_of, picture_bytes, question, serving
from PIL import Image

from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig
from olmo.preprocessing.image import load_image

N_FRAMES = 9


@pytest.fixture(scope="module")
def clip() -> bytes:
    """An animation of nine frames, each of its own colour."""
    frames = [Image.fromarray(np.full((40, 60, 3), 25 * i, np.uint8)) for i in range(N_FRAMES)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=400, lossless=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def video_model(model: Molmo) -> VideoOlmo:
    config = VideoOlmoConfig.from_molmo(model.config, pooling_h=2, pooling_w=2, max_frames=4, max_fps=2.0)
    return VideoOlmo(config).eval()


@pytest.fixture(scope="module")
def video_server(video_model: VideoOlmo) -> Iterator[LocalServer]:
    with serving(video_model) as server:
        yield server


def alone(model: ModelBase, example: dict[str, Any], **options: Any) -> str:
    inputs = model.config.build_preprocessor(for_inference=True)(example)
    inputs.pop("metadata")
    return model.generate(**inputs, max_new_tokens=6, **options).text[0]


def ask_about(clip_url: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "what happens?"}, {"type": "video_url", "video_url": {"url": clip_url}}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 6}


def test_a_video_is_seen_as_the_model_itself_sees_it(
    video_server: LocalServer, video_model: VideoOlmo, clip: bytes
) -> None:
    answer = video_server.ask(**ask_about(data_url(clip, "video/webp"))).json()
    example = {"prompt": "what happens?", "video": clip}
    assert answer["choices"][0]["message"]["content"] == alone(video_model, example)
    inputs = video_model.config.build_preprocessor(for_inference=True)(example)
    assert answer["usage"]["prompt_tokens"] == len(inputs["input_ids"])


def test_pictures_go_to_a_video_model_too(video_server: LocalServer, video_model: VideoOlmo) -> None:
    data = picture_bytes()
    answer = video_server.ask(**question("look", data_url(data), max_tokens=6)).json()
    wanted = alone(video_model, {"prompt": "look", "image": load_image(data, 10**6)})
    assert answer["choices"][0]["message"]["content"] == wanted


@pytest.mark.parametrize(("url", "code"), [
    ("https://example.org/a.mp4", "unsupported_url"), ("file:///a.mp4", "unsupported_url"),
    (data_url(picture_bytes(kind="JPEG"), "video/mp4"), "invalid_media"),
    (data_url(b"\0\0\0\x18ftypmp42" + b"\0" * 50, "video/mp4"), "invalid_media"),
    (data_url(b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "video/mp4"), "invalid_media"),
])  # fmt: skip
def test_videos_that_are_none(video_server: LocalServer, url: str, code: str) -> None:
    """Playlists, which would make FFmpeg open other addresses, among them."""
    assert error_of(video_server.ask(**ask_about(url)), 400)["code"] == code


def test_a_share_of_the_picture_tokens(model: Molmo) -> None:
    config = HeMolmoConfig.from_molmo(model.config, pooling_h=2, pooling_w=2, token_scorer={"scorer": "norm"})
    chooser = HeMolmo(config).eval()
    data = picture_bytes(120, 90)
    first = {}
    with serving(chooser) as server:
        for ratio in (0.1, 1.0):
            asked = question("look", data_url(data), max_tokens=6, logprobs=True)
            choice = server.ask(**asked, selection_ratio=ratio).json()["choices"][0]
            example = {"prompt": "look", "image": load_image(data, 10**6)}
            assert choice["message"]["content"] == alone(chooser, example, selection_ratio=ratio)
            first[ratio] = choice["logprobs"]["content"][0]["logprob"]
        assert first[0.1] != first[1.0], "the model saw less"
        error_of(server.ask(selection_ratio=1.5), 400)

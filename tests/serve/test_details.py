"""`include_details`: points with their places in the text, and what was kept of a picture."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from local_server import LocalServer, data_url, error_of, picture_bytes, question
from PIL import Image

from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.preprocessing.points import parse
from olmo.serve.details import told_points

ROOT = Path(__file__).resolve().parents[2]
SAYS = (
    'Here: <points x1="10.0" y1="25.0" x2="50.5" y2="75.0" alt="cats">cats</points> & <point x="1" y="2">é🐈</point>!'
)


def details_of(stream: str) -> dict[str, Any]:
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    (told,) = [chunk["olmo"] for chunk in chunks if "olmo" in chunk]
    return dict(told)


def test_points_are_told_with_their_places_in_the_text() -> None:
    told = told_points(SAYS, [(200, 100)], with_places=True)
    tags = [SAYS[point["start"] : point["end"]] for point in told]
    assert tags[0] == tags[1] == SAYS[6 : SAYS.index(" &")] and tags[2] == SAYS[SAYS.index("<point ") : -1]
    assert [(point["x_px"], point["y_px"]) for point in told] == [(20.0, 25.0), (101.0, 75.0), (2.0, 2.0)]
    assert [point["label"] for point in told_points(SAYS, [])] == [point.label for point in parse(SAYS)]
    assert "x_px" not in told_points(SAYS, [])[0] and "start" not in told_points(SAYS, [])[0]


def test_a_stream_and_a_whole_answer_tell_the_same(local: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.push", lambda *a: "")
    monkeypatch.setattr("olmo.tokenizer.IncrementalDecoder.flush", lambda *a: SAYS)
    asked = question("Point.", data_url(picture_bytes(200, 100)), include_details=True)
    whole = local.ask(**asked).json()["olmo"]
    assert whole == details_of(local.ask(**asked, stream=True).text)
    assert whole == local.client.post("/v1/points", json=asked).json()["olmo"]
    assert whole["points"] == told_points(SAYS, [(200, 100)], with_places=True)
    assert whole["image_sizes"] == [{"width": 200, "height": 100}] and whole["selection"] is None


def test_details_are_told_to_who_asks(local: LocalServer) -> None:
    assert "olmo" not in local.ask().json() and "olmo" not in local.ask(stream=True).text
    assert "olmo" not in local.ask(include_details=False).json()
    message = error_of(local.ask(include_details=True, n=2), 400)["message"]
    assert "include_details tells of one answer" in message


def test_models_tell_what_they_can_do(local: LocalServer, he_server: LocalServer) -> None:
    plain, chooses = (s.client.get("/v1/models").json()["data"][0]["olmo"] for s in (local, he_server))
    assert plain == {
        "takes_pictures": True, "takes_videos": False, "selection_ratio": None, "max_media_bytes": 100_000,
    }  # fmt: skip
    assert chooses == {**plain, "takes_videos": True, "selection_ratio": 0.5, "max_media_bytes": 10**6}


@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_what_was_kept_is_what_the_model_says_alone(he_server: LocalServer, he_model: HeMolmo, ratio: float) -> None:
    data = picture_bytes(90, 60)
    asked = question("What?", data_url(data), include_details=True, selection_ratio=ratio)
    told = he_server.ask(**asked).json()["olmo"]["selection"]
    inputs = he_model.config.build_preprocessor(for_inference=True)(
        {"image": Image.open(io.BytesIO(data)), "prompt": "What?"}
    )
    with torch.no_grad():
        aux = he_model.generate(**inputs, max_new_tokens=1, selection_ratio=ratio).aux
    mask = aux["selection_mask"][0]
    assert (told["kept"], told["total"]) == (int(mask.sum()), len(mask))
    (tokens,) = (picture["tokens"] for picture in told["pictures"])
    assert [token[4] for token in tokens] == mask.int().tolist()
    assert told["kept"] == len(mask) if ratio == 1 else 0 < told["kept"] < len(mask)
    boxes = torch.tensor(tokens)[:, :4]
    assert bool((boxes >= 0).all()) and bool((boxes <= 1).all()) and bool((boxes[:, 2:] >= boxes[:, :2]).all())


def test_requests_that_are_run_together_are_told_their_own(he_server: LocalServer) -> None:
    pictures = [data_url(picture_bytes(60 + 20 * i, 40, seed=i)) for i in range(4)]
    asked = [question(f"What {i}?", url, include_details=True) for i, url in enumerate(pictures)]
    alone = [he_server.ask(**one).json()["olmo"] for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = [answer.json()["olmo"] for answer in pool.map(lambda one: he_server.ask(**one), asked)]
    assert together == alone and len({str(one["selection"]) for one in alone}) > 1


def test_frames_are_counted_and_not_listed(he_server: LocalServer) -> None:
    clip = (ROOT / "examples" / "clips" / "moving.webp").read_bytes()
    asked = question("What happens?", include_details=True)
    part = {"type": "video_url", "video_url": {"url": data_url(clip, "image/webp")}}
    asked["messages"][0]["content"].append(part)
    told = he_server.ask(**asked).json()["olmo"]
    assert told["selection"]["pictures"] == [] and 0 < told["selection"]["kept"] < told["selection"]["total"]

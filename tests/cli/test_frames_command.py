from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def video(tmp_path, monkeypatch):
    """A hundred frames of a square that moves, 10 a second."""
    monkeypatch.chdir(tmp_path)
    frames = np.zeros((100, 48, 64, 3), np.uint8)
    for i in range(100):
        frames[i, 10:20, i % 50 : i % 50 + 10] = 255
    np.savez("clip.npz", frames=frames, fps=10)
    return tmp_path / "clip.npz"


def test_json_tells_indices_and_seconds(molmo, video, tmp_path):
    result = molmo("frames", video, "--frame-sampling", "uniform", "--max-frames", "16", "--json")
    facts = json.loads(result.out)
    assert facts["indices"] == [0, 7, 13, 20, 26, 33, 40, 46, 53, 59, 66, 73, 79, 86, 92, 99]
    assert facts["seconds"] == pytest.approx([i / 10 for i in facts["indices"]])
    assert (facts["n_frames"], facts["fps"], facts["duration_s"], facts["width"]) == (100, 10, 10, 64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.npz"]
    assert json.loads(molmo("frames", video, "--json").out) == facts


@pytest.mark.parametrize("strategy", ["uniform", "random", "adaptive"])
def test_every_strategy(molmo, video, strategy):
    facts = json.loads(molmo("frames", video, "--frame-sampling", strategy, "--max-frames", 5, "--json").out)
    assert len(facts["indices"]) == 5


def test_a_sheet_is_written(molmo, video, tmp_path):
    result = molmo("frames", video, "--max-frames", 4)
    assert (result.code, result.out.strip()) == (0, "clip_frames.png: 4 of 100 frames")
    with Image.open(tmp_path / "clip_frames.png") as sheet:
        assert sheet.size[0] > 2 * 64 and sheet.size[1] > 2 * 48
    assert molmo("frames", video, "-o", "sheet.jpg", "--json").code == 0
    assert (tmp_path / "sheet.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_parts_rates_and_seeds(molmo, video):
    facts = json.loads(molmo("frames", video, "--start", 2, "--end", 4, "--max-fps", 1, "--json").out)
    assert facts["seconds"] == pytest.approx([2.0, 3.0, 3.9])
    drawn = [molmo("frames", video, "--frame-sampling", "random", "--seed", s, "--json").out for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_real_file(molmo, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parents[1] / "preprocessing" / "video"))
    from number_videos import write_video

    path = write_video(tmp_path / "clip.mp4", n=30)
    facts = json.loads(molmo("frames", path, "--max-frames", 3, "--json").out)
    assert facts["indices"] == [0, 15, 29] and facts["seconds"] == pytest.approx([0, 0.5, 0.967], abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.mp4"], 1, "does not exist"),
        (["clip.npz", "-o", "sheet.gif"], 1, "cannot save a picture as 'sheet.gif'"),
        (["clip.npz", "--frame-sampling", "fps"], 2, "uniform"),
        (["clip.npz", "--max-frames", "0"], 2, "max-frames"),
        (["clip.npz", "--start", "99"], 1, "no frame from 99 s"),
    ],
)
def test_what_cannot_be_done_is_one_line(molmo, video, arguments, code, message):
    result = molmo("frames", *arguments)
    assert (result.code, result.out) == (code, "") and message in result.err

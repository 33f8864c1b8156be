from __future__ import annotations

import json

import numpy as np
from PIL import Image
from untrained import POINTS

import olmo.models.bundled
from olmo.cli.demo import CLIP, CLIP_QUESTIONS, PICTURE, QUESTIONS
from olmo.data.scenes import ScenesConfig, make_scene
from olmo.data.scenes.dataset import FIRST_EVALUATION_SEED
from olmo.data.scenes.moving import MovingScenesConfig, make_moving_scene
from olmo.preprocessing.video.open_video import open_video


def test_three_questions_and_an_annotated_picture(molmo, tiny, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = says(POINTS)
    result = molmo("demo", "--model", tiny)
    assert (result.code, result.err) == (0, "")
    questions = json.loads(QUESTIONS.read_text())["questions"]
    assert len(calls) == len(questions) == 3
    for question in questions:
        assert question in result.out
    assert result.out.count(POINTS) == 3
    assert str(PICTURE) in result.out and "demo_output/annotated.png" in result.out
    drawn = Image.open(tmp_path / "demo_output" / "annotated.png")
    assert drawn.size == Image.open(PICTURE).size
    assert (np.array(drawn) != np.array(Image.open(PICTURE).convert("RGB"))).any()


def test_an_installation_without_the_model_says_so(molmo, monkeypatch, tmp_path):
    monkeypatch.setattr(olmo.models.bundled, "__file__", str(tmp_path / "bundled.py"))
    monkeypatch.chdir(tmp_path)
    result = molmo("demo")
    assert result.code == 1
    assert "molmo-nano" in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "demo_output").exists()


def test_the_picture_is_a_scene_that_training_never_sees():
    facts = json.loads(QUESTIONS.read_text())
    assert facts["seed"] >= FIRST_EVALUATION_SEED
    picture = Image.open(PICTURE)
    scene = make_scene(facts["seed"], ScenesConfig(image_size=picture.width))
    assert np.array_equal(np.array(picture), np.array(scene.image)), "run scripts/build_demo_picture.py again"
    assert facts["counts"] == scene.counts()


def test_a_model_that_knows_videos_is_asked_about_the_clip_too(molmo, tiny, tiny_video, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = says(POINTS)
    about_picture = molmo("demo", "--model", tiny, "--output", "plain")
    result = molmo("demo", "--model", tiny_video)
    assert (result.code, result.err) == (0, "")
    facts = json.loads(CLIP_QUESTIONS.read_text())
    assert len(calls) == 3 + 3 + len(facts["questions"])
    assert all(question in result.out for question in facts["questions"])
    assert "Clip:" in result.out and "Clip:" not in about_picture.out
    assert all(len(call["images"]) == 6 for call in calls[6:])
    assert Image.open("demo_output/frames.png").size > (336, 336)
    assert sorted(p.name for p in (tmp_path / "plain").iterdir()) == ["annotated.png"]


def test_the_clip_is_a_scene_that_training_never_sees():
    facts = json.loads(CLIP_QUESTIONS.read_text())
    assert facts["seed"] >= FIRST_EVALUATION_SEED
    assert CLIP.stat().st_size <= 300_000
    with open_video(CLIP) as clip:
        frames, seconds = clip.get(range(clip.n_frames)), clip.seconds
    scene = make_moving_scene(facts["seed"], MovingScenesConfig(image_size=frames.shape[1]))
    assert np.array_equal(frames, scene.frames), "run scripts/build_demo_clip.py again"
    assert np.allclose(seconds, scene.seconds)

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from small_clips import write_clip
from untrained import ROOT

SCENES = {"image_size": 84, "max_kinds": 1, "max_count": 2, "max_objects": 2, "questions_per_scene": 2}


@pytest.fixture
def rows(tmp_path, picture):
    """A file of three good rows and one whose picture is missing."""
    answers = ["a cat", "two dogs", '<point x="50.0" y="50.0" alt="cat">cat</point>']
    lines = [{"image": picture.name, "question": "what?", "answer": answer} for answer in answers]
    lines.append({"image": "missing.png", "question": "what?", "answer": "nothing"})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_becomes_a_page(molmo, rows, tiny, tmp_path):
    page = tmp_path / "new" / "page.html"
    result = molmo("data", "show", rows, "--model", tiny, "-o", page)
    assert (result.code, result.out) == (0, f"{page}: 4 examples, 1 cannot be used\n")
    text = page.read_text()
    assert "train.jsonl:1" in text and "train.jsonl:4" in text and "missing.png" in text
    assert "two dogs" in text and "data:image/jpeg" in text


def test_a_part_of_a_file_with_a_shorter_context(molmo, rows, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = molmo("data", "show", rows, "--model", tiny, "--first", 1, "--limit", 1, "--max-tokens", 60)
    assert (result.code, result.out) == (0, "train.html: 1 examples\n")
    text = (tmp_path / "train.html").read_text()
    assert "train.jsonl:2" in text and "train.jsonl:3" not in text and "60 tokens" in text
    beyond = molmo("data", "show", rows, "--model", tiny, "--first", 9)
    assert beyond.code == 1 and "has 4 examples" in beyond.err


def test_a_recipe_shows_what_its_run_learns_from(molmo, tmp_path):
    shutil.copytree(ROOT / "configs" / "molmo-nano", tmp_path / "molmo-nano")
    recipe = {
        "model": "molmo-nano",
        "run_dir": "runs/none",
        "max_steps": 1,
        "first_example": 3,
        "data": {"sources": [{"kind": "scenes", "scenes": SCENES}]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    page = tmp_path / "page.html"
    result = molmo("data", "show", path, "--limit", 2, "-o", page)
    assert (result.code, result.out) == (0, f"{page}: 2 examples\n"), result.err
    text = page.read_text()
    assert "example 3: " in text and "example 4: " in text and "conversation 2" in text
    path.write_text(yaml.safe_dump({**recipe, "task": "patch_naming"}))
    assert "learns from no text" in molmo("data", "show", path, "-o", page).err


def test_a_missing_file_is_one_line(molmo, tmp_path):
    result = molmo("data", "show", tmp_path / "none.jsonl")
    assert (result.code, result.out) == (1, "") and "none.jsonl" in result.err


@pytest.fixture
def clips(tmp_path):
    """A file with a clip, a part of one, and a picture's question without picture."""
    write_clip(tmp_path / "clip.gif", n=8)
    lines = [
        {"video": "clip.gif", "question": "what moves?", "answer": "a square"},
        {"video": "clip.gif", "start_s": 1, "question": "what moves?", "answer": "the same square"},
        {"question": "what is red?", "answer": "blood"},
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_page_shows_frames_with_their_times(molmo, clips, tiny, tiny_video, tmp_path):
    page = tmp_path / "page.html"
    result = molmo("data", "show", clips, "--model", tiny_video, "-o", page)
    assert (result.code, result.out) == (0, f"{page}: 3 examples\n")
    text = page.read_text()
    times = [float(time) for time in re.findall(r"<figcaption>([0-9.]+) s: \d+ tokens", text)]
    assert len(times) == 6 + 4 and times[:6] == sorted(times[:6]) and times[5] == 1.75
    assert times[6:] == [0.0, 0.25, 0.5, 0.75], "times of the part that is meant"
    assert "6 frames" in text and "the same square" in text and 'class="t learned"' in text
    assert molmo("data", "show", clips, "--model", tiny, "-o", page).out == f"{page}: 3 examples\n"
    assert "8 frames" in page.read_text(), "a model of pictures becomes one of videos with its usual settings"


def test_a_model_of_pictures_makes_frames_as_small_as_its_context_asks(molmo, tiny, tmp_path):
    write_clip(tmp_path / "long.gif", n=64)
    path = tmp_path / "long.jsonl"
    path.write_text('{"video": "long.gif", "question": "what moves?", "answer": "a square"}\n')
    page = tmp_path / "page.html"
    result = molmo("data", "show", path, "--model", tiny, "--max-tokens", 170, "-o", page)
    assert (result.code, result.out) == (0, f"{page}: 1 examples\n")
    assert "16 frames" in page.read_text()


def test_the_model_of_a_recipe_stays_as_its_run_has_it(molmo, clips, tiny, tiny_video, tmp_path):
    recipe = {
        "init_from": str(tiny_video),
        "model_overrides": ["max_frames=2"],
        "run_dir": "runs/none",
        "max_steps": 1,
        "data": {"sources": [{"kind": "jsonl", "path": str(clips), "limit": 1}]},
    }
    path, page = tmp_path / "recipe.yaml", tmp_path / "page.html"
    path.write_text(yaml.safe_dump(recipe))
    assert molmo("data", "show", path, "--limit", 1, "-o", page).out == f"{page}: 1 examples\n"
    assert "2 frames" in page.read_text()
    path.write_text(yaml.safe_dump({**recipe, "init_from": str(tiny), "model_overrides": []}))
    assert "1 cannot be used" in molmo("data", "show", path, "--limit", 1, "-o", page).out
    assert "reads pictures, not video" in page.read_text()

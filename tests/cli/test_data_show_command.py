from __future__ import annotations

import json
import shutil

import pytest
import yaml
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

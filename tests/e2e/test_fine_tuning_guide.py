"""The guide to fine-tuning, done as it stands there: its file, its recipe, its measures before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from untrained import ROOT

from olmo.train.run import start_folder

GUIDE = ROOT / "docs" / "guides" / "fine_tuning.md"


def molmo(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-m", "olmo.cli.main", *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def right(model: str, cwd: Path) -> float:
    """Share of exact answers on the rows that were kept aside."""
    found = json.loads(molmo("eval", model, "val.jsonl:exact", "--json", cwd=cwd))
    assert found["n_questions"] == 32
    return float(found["scores"]["exact/accuracy"])


@pytest.mark.slow
def test_the_guide_teaches_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    snippet = GUIDE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=True, timeout=120)
    assert "128" in molmo("data", "check", "train.jsonl", cwd=tmp_path)
    assert right("molmo-nano", tmp_path) == 0
    molmo("train", "configs/finetune_nano.yaml", cwd=tmp_path)
    assert right("runs/finetune_nano/final", tmp_path) >= 0.9
    text = molmo("ask", "pictures/150.png", "Which lamp is on?", "--model", "runs/finetune_nano/final", cwd=tmp_path)
    assert text.startswith("the ")


def test_a_run_may_start_from_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_folder("molmo-nano").name == "nano"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "molmo-nano").mkdir()
    assert start_folder("molmo-nano") == Path("molmo-nano"), "a folder of that name wins"

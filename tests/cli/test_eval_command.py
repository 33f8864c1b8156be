from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_clips import write_clip


@pytest.fixture
def mine(tmp_path: Path, picture: Path) -> Path:
    """Three questions about one picture."""
    path = tmp_path / "mine.jsonl"
    rows = [{"image": picture.name, "question": f"Question {i}?", "answer": "yes"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_evaluates_a_file_and_goes_on(molmo: Callable, tiny: Path, mine: Path, tmp_path: Path) -> None:
    common = ("eval", tiny, f"{mine}:exact,contains", "-o", tmp_path / "out", "--max-new-tokens", 3)
    first = molmo(*common, "--limit", 2)
    assert first.code == 0, first.err
    assert "exact/accuracy" in first.out and "2 questions" in first.out
    folder = tmp_path / "out" / "tiny" / "mine"
    assert {p.name for p in folder.iterdir()} == {"settings.json", "predictions.jsonl", "metrics.json", "report.html"}
    second = molmo(*common, "--json", "--batch-size", 2, "--no-report")
    found = json.loads(second.out)
    assert found["n_questions"] == 3 and found["folder"] == str(folder)
    assert set(found["scores"]) == {"exact/accuracy", "contains/accuracy"}
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 3
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    again = molmo(*common, "--score-only", "--json")
    assert json.loads(again.out)["scores"] == scores


def test_lists_tasks_and_metrics(molmo: Callable) -> None:
    shown = molmo("eval", "--list")
    assert shown.code == 0
    assert "chart_qa" in shown.out and "relaxed" in shown.out and "cap_f1" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere",), 2, "at least one task"),
        (("nowhere", "chartqa"), 1, "did you mean 'chart_qa'"),
        (("nowhere", "scenes", "chart_qa", "--split", "val"), 2, "go with one task"),
        (("nowhere", "scenes", "--data", "x"), 1, "draws its pictures itself"),
        (("nowhere/at/all", "scenes"), 1, "no such folder: nowhere/at/all"),
        (
            ("nowhere", "scenes", "--score-only", "--max-frames", "4"),
            2,
            "--max-frames is for the model, and --score-only",
        ),
        (("nowhere", "scenes", "--limit", "0"), 2, "greater than or equal to 1"),
        (("nowhere", "scenes", "--judge", "no_such_module:judge"), 1, "is not module:name of a judge"),
        (("nowhere", "scenes", "--judge", "json:loads"), 1, "has no statements and no agreements"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(
    molmo: Callable, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = molmo("eval", *arguments)
    assert result.code == code and says in " ".join(result.err.replace("│", " ").split())


def test_captions_with_a_judge(
    molmo: Callable, tiny: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = molmo("eval", tiny, f"{mine}:cap_f1", "-o", tmp_path / "out")
    assert missing.code == 1 and "--judge" in missing.err
    given = molmo(
        "eval", tiny, f"{mine}:cap_f1", "-o", tmp_path / "out", "--judge", "olmo.eval.metrics.judges:WordJudge",
        "--max-new-tokens", 3, "--json",
    )  # fmt: skip
    assert given.code == 0, given.err
    assert "cap_f1/f1" in json.loads(given.out)["scores"]


def test_a_molmo_is_asked_about_videos(molmo: Callable, tiny: Path, tmp_path: Path) -> None:
    """A model of pictures takes videos where the task has some, with the frames that are asked for."""
    write_clip(tmp_path / "clip.gif", n=8)
    row = {"video": "clip.gif", "question": "Which?", "options": ["cat", "dog"], "answer_idx": 0}
    (tmp_path / "clips.jsonl").write_text(json.dumps(row) + "\n")
    common = ("eval", tiny, f"{tmp_path / 'clips.jsonl'}:choice_by_kind", "-o", tmp_path / "out", "--json")
    done = molmo(*common, "--max_frames=2", "--frame_sampling=adaptive", "--max-fps", 2)
    assert done.code == 0, done.err
    folder = tmp_path / "out" / "tiny" / "clips"
    (line,) = (folder / "predictions.jsonl").read_text().splitlines()
    assert len(json.loads(line)["frame_seconds"][0]) == 2
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["video"]["frame_sampling"] == "adaptive" and settings["video"]["max_fps"] == 2
    assert 'class="frames"' in (folder / "report.html").read_text()
    likely = molmo(*common, "--max-frames", 2, "--frame-sampling", "uniform", "--choose-by", "likelihood", "--fresh")
    assert json.loads(likely.out)["scores"]["choice_by_kind/named"] == 1.0
    assert json.loads((folder / "predictions.jsonl").read_text())["prediction"] in ("A", "B")


def test_options_of_videos_need_a_video(molmo: Callable, tiny: Path, mine: Path) -> None:
    refused = molmo("eval", tiny, f"{mine}:exact", "--max-frames", 4)
    assert refused.code == 2 and "--max-frames" in refused.err and "none has one" in refused.err
    assert "frame_sampling" in molmo("eval", "nowhere", "scenes", "--frame_sampling", "often").err

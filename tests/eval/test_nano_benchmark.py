"""`benchmarks/nano.py` from its arguments to its last line."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from olmo.data.scenes.art import ASSETS
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.models.molmo.molmo import Molmo
from olmo.train.train_config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks up its module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nano() -> Iterator[ModuleType]:
    # As `python benchmarks/nano.py` does, so that the script finds what benchmarks share.
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield script(ROOT / "benchmarks" / "nano.py")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Art that looks like nothing known: Noto's, in other colours."""
    path = tmp_path_factory.mktemp("art") / "other.png"
    with Image.open(ASSETS / "noto.png") as image:
        red, green, blue, alpha = image.convert("RGBA").split()
    Image.merge("RGBA", (blue, red, green, alpha)).save(path)
    return path


@pytest.fixture(scope="module")
def run_dir(tiny_model: Molmo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run with one checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model.save_checkpoint(folder / "step00000012")
    return folder


def arguments(run_dir: Path, *more: str) -> list[str]:
    return ["--run-dir", str(run_dir), "--profile", "basic", *more]


def test_last_line_is_the_result(nano: ModuleType, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nano.main(arguments(run_dir, "--scenes", "2")) == 1, "an untrained model misses the floors"
    *shown, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert result["step"] == 12 and result["n_scenes"] == 2 and result["model"] == run_dir.name
    naming = result["tasks"]["naming"]
    assert set(naming) == {"n", "n_right", "accuracy", "interval", "blind", "floor", "passed"}
    assert naming["floor"] == 0.8 and naming["passed"] is False
    assert {"torch", "numpy", "python"} <= set(result["versions"])
    assert {"hardware", "commit", "n_params", "counting_by_count", "pointing_by_objects"} <= set(result)
    assert str(run_dir.parent) not in last, "no folder of this machine"
    assert any("FAIL" in line for line in shown)
    assert set(result["points"]) == {"pointing"}
    assert set(result["points"]["pointing"]) == {"n", "precision", "recall", "f1", "interval", "blind"}
    assert "art" not in result and result["profile"] == "basic"


def test_a_run_of_the_trainer(
    nano: ModuleType, tiny_model: Molmo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 100):
        tiny_model.save_checkpoint(tmp_path / f"step{step:08}")
    (tmp_path / "step00000200").mkdir()  # not complete
    assert nano.main(["--run-dir", str(tmp_path), "--scenes", "1", "--no-blind"]) == 1
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["step"] == 100


def test_wide_scenes_and_other_art(
    nano: ModuleType,
    run_dir: Path,
    sheet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nano, "RESULT", tmp_path / "nano.json")
    given = arguments(run_dir, "--profile", "wide", "--art", str(sheet), "--scenes", "1", "--save", "--threads", "1")
    assert nano.main(given) == 1
    *shown, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    art = result["art"]
    assert result["profile"] == "wide" and result["points"]["pointing"]["floor"] == 0.9
    assert result["tasks"]["naming"]["floor"] == 0.95 and "floor" not in result["tasks"]["pointing"]
    assert art["sheet"] == "other.png" and art["n_scenes"] == 1
    assert art["tasks"]["naming"]["floor"] == 0.5 and art["points"]["pointing"]["floor"] == 0.7
    assert all(
        "blind" in entry for part in (result, art) for kind in ("tasks", "points") for entry in part[kind].values()
    )
    assert {"json", "follow_up"} <= set(result["tasks"]) and {"json", "follow_up"} <= set(art["tasks"])
    assert any("in the art of other.png" in line for line in shown)
    assert str(sheet.parent) not in last, "no folder of this machine"

    tables = script(ROOT / "scripts" / "build_doc_tables.py")
    monkeypatch.setattr("doc_tables.cells.RESULTS", tmp_path)
    page = tables.nano_results()
    assert page.count("| pointing, F1 | ") == 2 and "art it was never trained on (`other.png`)" in page
    assert "| pointing, near |" in page and "| follow up |" in page


def test_a_result_without_points_still_makes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = script(ROOT / "scripts" / "build_doc_tables.py")
    entry = {"n": 4, "accuracy": 0.5, "interval": [0.1, 0.9]}
    facts = {"device": "cpu", "cpu": "a", "threads": 1}
    result = {"n_scenes": 4, "tasks": {"naming": entry}, "hardware": facts, "versions": {"torch": "2"}}
    (tmp_path / "nano.json").write_text(json.dumps(result))
    monkeypatch.setattr("doc_tables.cells.RESULTS", tmp_path)
    page = tables.nano_results()
    assert "| naming | 4 | 50.0 % | 10.0 % to 90.0 % | - |" in page and "F1" not in page


def test_scenes_are_those_of_the_recipes(nano: ModuleType) -> None:
    for profile, recipe in (("basic", "nano.yaml"), ("wide", "nano_wide.yaml")):
        (source,) = TrainConfig.load(ROOT / "configs" / recipe).data.sources
        trained, asked = source.scenes or ScenesConfig(), nano.PROFILES[profile].scenes
        assert asked.image_size == 168
        drawn = [c.asdict() for c in (trained, asked)]
        for options in drawn:
            del options["questions_per_scene"], options["task_weights"]
        assert drawn[0] == drawn[1], "asked about other scenes than it was trained on"
        assert trained.asked_tasks() == asked.asked_tasks()
    wide = nano.PROFILES["wide"]
    assert (wide.n_scenes, nano.PROFILES["basic"].n_scenes) == (1000, 500)
    figures = {"naming": 0.95, "counting": 0.9, "pointing_f1": 0.9, "reading": 0.9, "position": 0.9}
    assert dict(wide.floors) == figures, "the goals of molmo-nano"


def test_a_floor_needs_a_figure(nano: ModuleType) -> None:
    report = nano.ScenesReport(1, False, {"naming": nano.TaskResult(10, 5)})
    part = nano.Part("here", nano.PROFILES["basic"], report, None)
    assert not part.passes("naming") and not part.passes("counting")
    assert nano.lowest_ratio([part]) == 0.625, "0.5 of 0.8"
    art = nano.Part("art", nano.with_art(nano.PROFILES["basic"], Path("x.png")), report, None)
    assert art.passes("naming")
    assert nano.lowest_ratio([art]) == 1.0


def test_without_floors_and_blind(nano: ModuleType, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nano.main(arguments(run_dir, "--scenes", "1", "--no-blind", "--no-floors")) == 0
    naming = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["tasks"]["naming"]
    assert "blind" not in naming and "floor" not in naming


def test_saves_what_it_prints(
    nano: ModuleType,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nano, "RESULT", tmp_path / "results" / "nano.json")
    nano.main(arguments(run_dir, "--scenes", "1", "--no-blind", "--save"))
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert json.loads((tmp_path / "results" / "nano.json").read_text()) == printed


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--run-dir", "no_such_run"], "no_such_run"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--scenes", "0"], "--scenes 0"),
        (["--device", "abacus"], "abacus"),
        (["--threads", "-1"], "--threads -1"),
        (["--art", "no_such.png"], "no_such.png"),
    ],
)
def test_mistakes_are_one_line(
    nano: ModuleType, run_dir: Path, given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = given if given[0] in ("--run-dir", "--model") else arguments(run_dir, *given)
    assert nano.main(whole) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert says in captured.err


def test_a_run_without_a_whole_checkpoint(nano: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step00000012").mkdir()  # no marker
    assert nano.main(["--run-dir", str(tmp_path)]) == 2
    assert "holds no complete checkpoint" in " ".join(capsys.readouterr().err.split())

"""`benchmarks/nano.py` from its arguments to its last line."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import save_file

from olmo.models.molmo.molmo import Molmo, MolmoConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nano() -> Iterator[ModuleType]:
    # As `python benchmarks/nano.py` does, so that the script finds what benchmarks share.
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmarks_nano", ROOT / "benchmarks" / "nano.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def run_dir(tiny_config: MolmoConfig, tiny_model: Molmo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run with one checkpoint, and the configuration of its model beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "latest").mkdir()
    save_file(tiny_model.state_dict(), folder / "latest" / "weights.safetensors")
    (folder / "latest" / "state.json").write_text('{"step": 12}', encoding="utf-8")
    tiny_config.save(folder / "config")
    return folder


def arguments(run_dir: Path, *more: str) -> list[str]:
    return ["--run-dir", str(run_dir), "--config", str(run_dir / "config"), *more]


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


def test_weights_of_another_model(nano: ModuleType, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nano.main(["--run-dir", str(run_dir)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

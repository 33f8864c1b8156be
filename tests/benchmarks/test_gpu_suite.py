"""The suite for a GPU runs at toy size on a CPU, and the comparison of models counts what it says."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.presets import preset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a dense model that is smaller still than the toy of the script."""
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, pair = importlib.import_module("gpu_suite"), importlib.import_module("he_molmo_pair")
    monkeypatch.setattr(importlib.import_module("harness"), "commit", lambda: None)
    values = {**pair.SMALL, "llm": {**pair.SMALL["llm"], "d_model": 64, "n_heads": 2, "mlp_hidden_size": 96}}
    monkeypatch.setattr(script, "he_config", lambda machine: HeMolmoConfig.new(**values))
    return script


def options(**changes: Any) -> argparse.Namespace:
    usual = {"quick": True, "save": False, "threads": 1, "device": "cpu", "tiny": True, "budget": 600.0}
    return argparse.Namespace(**{**usual, **changes})


def test_each_figure_is_printed_as_it_comes_and_has_limit_and_goal(suite: ModuleType, capsys) -> None:
    suite.run(options())
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    cases = [row["case"] for row in result["rows"]]
    assert cases == [
        "7B, prompt of 13 crops, TFLOP/s",
        "7B, decoding, tokens/s",
        "7B in int8, decoding, tokens/s",
        "7B in int4, decoding, tokens/s",
        "MolmoE-1B, decoding, tokens/s",
    ]
    assert [json.loads(line)["case"] for line in lines if line.startswith('{"case"')] == cases
    for row in result["rows"]:
        assert row["ours"] > 0 and row["goal"] > 0 and row["met"] is (row["ours"] >= row["goal"])
    prompt, decoding = result["rows"][:2]
    assert prompt["goal"] == pytest.approx(0.5 * result["matmul_peak"] / 1e12, rel=1e-3)
    assert decoding["goal"] == pytest.approx(0.7 * decoding["limit"], rel=1e-3)
    assert [row["goal"] / row["peer"] for row in result["rows"][2:]] == pytest.approx([1.4, 1.8, 2.0], rel=1e-3)
    assert result["missed"] == [row["case"] for row in result["rows"] if not row["met"]]


def test_what_no_time_is_left_for_is_named(suite: ModuleType, capsys) -> None:
    result = suite.run(options(budget=0.0))
    assert result["rows"] == [] and result["left_out_for_want_of_time"] == ["inference", "training", "selecting"]


def test_training_and_selection_meet_their_goals_or_not(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    row, machine = suite.Row, suite.Machine("cuda", False, 1, 8)
    trained = [
        row(case="7B shape, 4 of 28 layers", ours=2.0, peer=1.0, extra={"mfu": 0.41}),
        row(case="MolmoE shape, 4 of 16 layers", ours=2.0, peer=1.0, extra={"mfu": 0.19}),
    ]
    chosen = [
        row(case="first token", ours=1.0, peer=peer, is_higher_better=False, extra={"goal": 2.0}) for peer in (3.0, 1.5)
    ] + [row(case="language model", ours=1.0, peer=3.0, is_higher_better=False, extra={"goal": None})]
    monkeypatch.setattr(suite.train_step, "gpu_rows", lambda n_runs: trained)
    monkeypatch.setattr(suite.he_molmo, "on_gpu", lambda n_runs: (chosen, {}))
    assert [found.extra["met"] for found in suite.training(machine)] == [True, False]
    assert [found.extra["met"] for found in suite.selecting(machine)] == [True, False, None]


def test_large_shapes_are_not_begun_on_a_cpu(suite: ModuleType) -> None:
    with pytest.raises(SystemExit, match="add --tiny"):
        suite.run(options(tiny=False))


def test_the_comparison_counts_what_a_token_takes(suite: ModuleType) -> None:
    table = importlib.import_module("model_table")
    routed, dense = (table.counted(preset(name)) for name in ("molmoe-1b", "molmo-7b-d"))
    assert (round(routed.n_params / 1e9, 2), round(routed.n_active / 1e9, 2)) == (7.22, 1.58)
    llm = preset("molmo-7b-d").llm
    block = 2 * llm.d_model**2 + 2 * llm.d_model * 4 * 128 + 3 * llm.d_model * llm.mlp_hidden_size
    assert dense.read_bytes == pytest.approx(2 * (28 * block + llm.d_model * 152_064), rel=0.02)
    assert dense.first_flops > 2.5 * routed.first_flops and dense.read_bytes > 5 * routed.read_bytes

"""The plumbing of the benchmarks: who runs when, what a ratio means, what is printed and saved. No seconds."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the scripts import it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("harness")


def _options(**changes: bool) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": True, "save": False, **changes})


def test_sides_take_turns_and_none_is_always_first(harness):
    order: list[str] = []

    def side(name: str, figure: float):
        def run() -> float:
            order.append(name)
            return figure

        return run

    figures = harness.interleave({"ours": side("ours", 2.0), "peer": side("peer", 1.0)}, 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert figures == {"ours": [2.0] * 3, "peer": [1.0] * 3}


def test_a_ratio_above_one_is_better_for_us_either_way(harness):
    assert harness.Row(case="speed", ours=20.0, peer=10.0).ratio == 2.0
    assert harness.Row(case="memory", ours=20.0, peer=10.0, is_higher_better=False).ratio == 0.5
    assert harness.Row(case="alone", ours=20.0).ratio is None


def test_a_slow_round_counts_for_both_sides(harness):
    assert harness.paired_ratio([10.0, 1.0, 10.0], [5.0, 0.5, 5.0]) == 2.0


def test_the_last_line_is_one_object_with_what_a_reader_needs(harness, capsys):
    rows = [harness.Row(case="batch 1", ours=30.0, peer=20.0, limit=60.0), harness.Row(case="batch 8", ours=9, peer=10)]
    harness.report(
        "toy", "tokens/s", rows, options=_options(), machine=harness.hardware(), packages=("numpy", "nothing")
    )
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert result["ratio"] == 0.9  # the worst row
    assert [row["ratio"] for row in result["rows"]] == [1.5, 0.9]
    assert result["hardware"]["threads"] == torch.get_num_threads()
    assert set(result["versions"]) == {"python", "torch", "numpy"}
    assert {"commit", "command", "date", "quick"} <= set(result)
    for word in ("ours", "peer", "limit", "ratio", "batch 1"):
        assert word in printed


def test_saved_results_are_what_was_printed(harness, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    row = harness.Row(case="alone", ours=1 / 3)
    harness.report("toy", "x", [row], options=_options(save=True), machine={})
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "results" / "toy.json").read_text()) == printed
    assert printed["ratio"] is None and printed["rows"][0]["ours"] == 0.33333


def test_nothing_is_written_without_save(harness, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    harness.report("toy", "x", [harness.Row(case="a", ours=1.0)], options=_options(), machine={})
    assert not list(tmp_path.iterdir())


def test_the_command_is_short_and_names_no_folder_of_this_machine(harness, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "decode.py"), "--save"])
    assert harness._command() == "python benchmarks/decode.py --save"


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_no_threads_are_refused(harness, monkeypatch, threads, capsys):
    monkeypatch.setattr(sys, "argv", ["decode.py", "--threads", threads])
    with pytest.raises(SystemExit):
        harness.parse_options("toy")
    assert "at least 1" in capsys.readouterr().err


def test_the_commit_says_when_code_differs_from_it(harness):
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", harness.commit() or "0" * 40)


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda file: file.stem)
def test_saved_results_carry_their_origin(file):
    result = json.loads(file.read_text())
    assert {"ratio", "hardware", "versions", "commit", "command"} <= set(result)

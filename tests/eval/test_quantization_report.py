"""The report on quantising: nothing changed reads as nothing, and what changed is counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from untrained import save_tiny_model

from olmo.eval.quantization_report import Behaviour, behaviour, compare, scene_questions
from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.models.quantize import n_narrow_numbers


def noted(logits: torch.Tensor, *right: bool) -> Behaviour:
    return Behaviour(logits, right, n_bytes=400, n_linear_bytes=0)


def test_the_same_model_twice_differs_in_nothing():
    before = noted(torch.randn(5, 7), True, False)
    report = compare(before, before, 10)
    assert (report.logit_distance, report.kl, report.top1_agreement) == (0.0, 0.0, 1.0)
    assert report.accuracy_before == report.accuracy_after == 0.5
    assert (report.n_questions, report.n_positions, report.linear_bytes_before) == (2, 5, 40)


def test_differences_are_counted():
    before = noted(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), True, True)
    after = replace(noted(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), True, False), n_bytes=100, n_linear_bytes=9)
    report = compare(before, after, 9)
    assert report.top1_agreement == 0.5
    assert report.logit_distance == pytest.approx(2**0.5 / before.logits.std().item())
    p = torch.tensor([0.0, 2.0]).softmax(0)
    assert report.kl == pytest.approx(0.5 * float(2 * (p[1] - p[0])), rel=1e-5)
    assert (report.accuracy_before, report.accuracy_after) == (1.0, 0.5)
    assert report.interval_after[0] < 0.5 < report.interval_after[1]
    assert (report.bytes_before, report.bytes_after, report.linear_bytes_after) == (400, 100, 9)


def test_a_real_model_is_noted_down(tmp_path):
    save_tiny_model(tmp_path / "m")
    items = scene_questions(1)[:3]
    wide = behaviour(Molmo.from_pretrained(tmp_path / "m"), items)
    model = Molmo.from_pretrained(tmp_path / "m", quantize="int8")
    report = compare(wide, behaviour(model, items), n_narrow_numbers(model))
    assert report.n_questions == 3 and report.n_positions >= 3
    assert 0 < report.logit_distance < 0.2
    assert report.linear_bytes_after <= 0.35 * report.linear_bytes_before  # rows of 32 numbers: a scale is 3 % more
    assert report.bytes_after < report.bytes_before
    json.dumps(report.asdict())


def test_no_scenes_are_no_report():
    with pytest.raises(OLMoInputError, match="at least 1 scene, got 0"):
        scene_questions(0)

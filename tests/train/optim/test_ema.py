from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stopped_run import stop_and_resume
from torch import nn

from olmo.models.molmo.molmo import Molmo
from olmo.train.optim.ema import MovingAverage
from olmo.train.run import build_trainer


def test_the_average_follows_the_formula() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = MovingAverage({"w": weight}, decay=0.75)
    weight.data.fill_(5.0)
    average.update()
    assert average.tensors()["w"].tolist() == pytest.approx([2.0, 2.75])


def test_weights_come_back_bit_for_bit() -> None:
    weight = nn.Parameter(torch.randn(5))
    average = MovingAverage({"w": weight}, decay=0.5)
    weight.data.add_(1.0)
    before = weight.detach().clone()
    with average.in_place():
        assert torch.equal(weight, average.averages["w"])
    assert torch.equal(weight, before)


def test_a_run_exports_the_average_and_resumes_it(recipe: Path, tmp_path: Path) -> None:
    overrides = ["ema_decay=0.5"]
    straight = build_trainer(recipe, [*overrides, f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    resumed = stop_and_resume(recipe, overrides, after=3)
    name = "llm.blocks.0.mlp.ff_out.weight"
    assert torch.equal(straight.average.averages[name], resumed.average.averages[name])
    exported = Molmo.from_pretrained(tmp_path / "run" / "final").get_parameter(name)
    assert torch.equal(exported, resumed.average.averages[name])
    assert not torch.equal(exported, resumed.task.model.get_parameter(name))

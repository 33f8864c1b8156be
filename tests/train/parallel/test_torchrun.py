"""The command of the documents: a recipe under `torchrun` on two processes is the run of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.train.run import build_trainer

ROOT = Path(__file__).resolve().parents[3]


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line and "step" in line]


def exported(run_dir: Path, recipe: Path) -> Molmo:
    model = Molmo(MolmoConfig.load(recipe.parent / "model"))
    model.load_checkpoint(run_dir / "final")
    return model


@pytest.mark.slow  # two fresh processes import torch and train
@pytest.mark.parametrize("overrides", [["micro_batch_size=1"], ["parallel.tensor_parallel=2"]], ids=["fsdp2", "tp"])
def test_torchrun_trains_what_one_process_trains(recipe, tmp_path, overrides):
    build_trainer(recipe, ["max_steps=3"]).fit()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "olmo.cli.main", "train", str(recipe), "max_steps=3", f"run_dir={tmp_path / 'two'}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "run"), abs=1e-4)
    ours, theirs = (exported(tmp_path / name, recipe).state_dict() for name in ("two", "run"))
    for name, value in theirs.items():
        # AdamW turns rounding of a gradient near zero into a step of the learning rate.
        assert float((ours[name] - value).abs().mean()) < 1e-4, name
        torch.testing.assert_close(ours[name], value, atol=2e-2, rtol=0)

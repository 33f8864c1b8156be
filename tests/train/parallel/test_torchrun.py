"""The command of the documents: a recipe under `torchrun` on two processes is the run of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from olmo.models.molmo.molmo import Molmo
from olmo.train.run import build_trainer

ROOT = Path(__file__).resolve().parents[3]
ROUTED = ["model_overrides=[llm.block_type=olmoe,llm.n_experts=4]"]


def losses(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line and "step" in line]


def exported(run_dir: Path) -> Molmo:
    return Molmo.from_pretrained(run_dir / "final")


@pytest.mark.slow  # two fresh processes import torch and train
@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ([], ["micro_batch_size=1"]),
        ([], ["parallel.tensor_parallel=2"]),
        # The routers' losses are means over a micro-batch: those of two have to hold the rows that one holds.
        (ROUTED, ["micro_batch_size=1", "parallel.expert_parallel=true"]),
    ],
    ids=["fsdp2", "tp", "experts split"],
)
def test_torchrun_trains_what_one_process_trains(recipe, tmp_path, model, overrides):
    single = ["micro_batch_size=1"] if model else []
    build_trainer(recipe, ["max_steps=3", *single, *model]).fit()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [
        "-m",
        "olmo.cli.main",
        "train",
        str(recipe),
        "max_steps=3",
        f"run_dir={tmp_path / 'two'}",
        *model,
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "run"), abs=1e-4)
    ours, theirs = (exported(tmp_path / name).state_dict() for name in ("two", "run"))
    for name, value in theirs.items():
        # AdamW turns rounding of a gradient near zero into a step of the learning rate.
        assert float((ours[name] - value).abs().mean()) < 1e-4, name
        torch.testing.assert_close(ours[name], value, atol=2e-2, rtol=0)

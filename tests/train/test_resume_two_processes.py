"""A run that goes on with another number of processes takes the same steps, to rounding."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from torch import distributed as dist
from torch import multiprocessing

from olmo.train.run import build_trainer

SETTINGS = ["max_steps=8", "ema_decay=0.9", "unfreeze_schedule=[[1,1],[3,all]]", "checkpoint.every_steps=100"]


def train(recipe: Path, run: Path, n_steps: int, *more: str) -> None:
    """Train as `fit` does, up to a step, and save it."""
    trainer = build_trainer(recipe, [*SETTINGS, f"run_dir={run}", *more])
    trainer.start()
    for batch in trainer.batches():
        metrics = trainer.train_step(batch)
        for watcher in trainer.watchers:
            watcher.on_step(trainer.step, metrics)
        if trainer.step == n_steps:
            break
    trainer.save()
    trainer.close("stopped")


def losses(run: Path) -> list[float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in found if "loss" in line]


def work(rank: int, port: int, recipe: str, folder: str) -> None:
    """Two processes begin one run, and carry on another."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    train(Path(recipe), Path(folder) / "two-then-one", 4, "parallel.strategy=fsdp2", "checkpoint.is_async=true")
    train(Path(recipe), Path(folder) / "one-then-two", 8, "parallel.strategy=fsdp2")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that unloads them


@pytest.mark.slow  # two fresh processes import torch
def test_another_number_of_processes_takes_the_same_steps(recipe: Path, tmp_path: Path) -> None:
    straight, one_first, two_first = (tmp_path / name for name in ("straight", "one-then-two", "two-then-one"))
    train(recipe, straight, 8)
    train(recipe, one_first, 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, args=(port, str(recipe), str(tmp_path)), nprocs=2)
    train(recipe, two_first, 8)
    expected = losses(straight)
    assert len(expected) == 8
    assert losses(one_first) == pytest.approx(expected, rel=1e-4)
    assert losses(two_first) == pytest.approx(expected, rel=1e-4)

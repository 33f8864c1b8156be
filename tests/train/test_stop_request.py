"""A signal lets the step finish and a checkpoint be written; the same command then goes on, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from olmo.train.run import build_trainer
from olmo.train.stop_request import SIGNALS, StopRequest
from olmo.train.trainer import Trainer
from olmo.train.watch.base import Watcher

DEFAULTS = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Signals as a shell's foreground has them: a test run in the background would ignore Ctrl-C."""
    before = {number: signal.signal(number, default) for number, default in DEFAULTS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class SignalAt(Watcher):
    """Sends this process and its children a signal after a step, as batch systems and torchrun do at any time."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.at, self.number = step, number

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.at:
            children = [str(child.pid) for child in multiprocessing.active_children()]
            if children:  # from outside: workers take a signal of their own parent for a farewell
                subprocess.run(["kill", f"-{self.number.value}", *children], check=True)
                time.sleep(0.5)  # one that dies of it is noticed by then
            os.kill(os.getpid(), self.number)


class Signalled(Trainer):
    """A trainer that gets a signal after a step."""

    watcher: SignalAt | None = None

    def start(self) -> None:
        super().start()
        if self.watcher is not None:
            self.watchers.append(self.watcher)


def signalled(recipe: Path, step: int, number: signal.Signals, *overrides: str, is_struck: bool = True) -> Trainer:
    trainer = build_trainer(recipe, ["checkpoint.every_steps=100", *overrides])
    trainer.__class__ = Signalled
    assert isinstance(trainer, Signalled)
    trainer.watcher = SignalAt(step, number) if is_struck else None
    trainer.fit()
    return trainer


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_run_goes_on_bit_for_bit(number: signal.Signals, recipe: Path, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    stopped = signalled(recipe, 2, number)
    assert stopped.step == 2 and stopped.stopped_by == number.name
    assert (tmp_path / "run" / "step00000002" / "COMPLETE").is_file()
    assert not (tmp_path / "run" / "final").exists()
    assert signal.getsignal(number) is before

    resumed = build_trainer(recipe, ["checkpoint.every_steps=100"])
    resumed.fit()
    straight = build_trainer(recipe, ["checkpoint.every_steps=100", f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    assert resumed.stopped_by is None and (tmp_path / "run" / "final").is_dir()
    for (name, a), b in zip(
        resumed.task.module.state_dict().items(), straight.task.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_workers_that_load_data_outlive_the_signal(recipe: Path, tmp_path: Path) -> None:
    stopped = signalled(recipe, 2, signal.SIGTERM, "n_workers=2")
    assert stopped.step == 2 and (tmp_path / "run" / "step00000002" / "COMPLETE").is_file()
    resumed = build_trainer(recipe, ["checkpoint.every_steps=100", "n_workers=2"])
    resumed.fit()
    assert (tmp_path / "run" / "final").is_dir()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children(), "workers end with their run"


def test_in_the_last_step_the_run_just_ends(recipe: Path, tmp_path: Path) -> None:
    trainer = signalled(recipe, 6, signal.SIGTERM)
    assert trainer.stopped_by is None and (tmp_path / "run" / "final").is_dir()


def work(rank: int, port: int, recipe: str) -> None:
    """Two processes, of which the second alone gets a signal."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    stopped = signalled(Path(recipe), 3, signal.SIGTERM, "parallel.strategy=fsdp2", is_struck=rank == 1)
    assert stopped.step == 3 and stopped.stopped_by is not None
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an interpreter that unloads them


@pytest.mark.slow  # two fresh processes import torch
def test_a_signal_to_one_process_stops_all(recipe: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, args=(port, str(recipe)), nprocs=2)
    assert (tmp_path / "run" / "step00000003" / "COMPLETE").is_file()


def test_a_second_signal_ends_at_once() -> None:
    with StopRequest() as request, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.name is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_is_not_from_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # what Python says of handlers it does not know
    with StopRequest():
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_hear_nothing() -> None:
    handlers = []

    def listen() -> None:
        with StopRequest():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [before]

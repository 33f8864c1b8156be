"""A process killed at any point of a save, or a disk that fills up: the last good checkpoint always loads."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from cut_short import full_disk_open, killed_at
from toy_run import ToyRun, assert_same, opened, steps_in

from olmo.exceptions import OLMoCheckpointError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def run_with_one_checkpoint(folder: Path) -> ToyRun:
    run = ToyRun().train(1)
    with opened(folder) as checkpoints:
        run.save(checkpoints)
    return run


def count_points(folder: Path, work) -> int:
    """How many points the work passes."""
    low, high = 0, 1
    while killed_at(high, folder, work):
        low, high = high, 2 * high
        shutil.rmtree(folder)
        shutil.copytree(f"{folder}.copy", folder)
    while high - low > 1:
        middle = (low + high) // 2
        shutil.rmtree(folder)
        shutil.copytree(f"{folder}.copy", folder)
        low, high = (middle, high) if killed_at(middle, folder, work) else (low, middle)
    return high


def kill_and_check(tmp_path: Path, stride: int, is_async: bool) -> int:
    """Kill a second save at every `stride`th point; returns how many points there are."""
    folder = tmp_path / "run"
    run = run_with_one_checkpoint(folder)
    first = run.tensors()
    second = run.train(1).tensors()
    shutil.copytree(folder, f"{folder}.copy")

    def work() -> None:
        torch.set_rng_state(second["generator"])  # the checks below draw from the same one
        with opened(folder, keep_last=1, is_async=is_async) as checkpoints:
            run.save(checkpoints)

    n_points = count_points(folder, work)
    seen = set()
    for point in range(0, n_points, stride):
        shutil.rmtree(folder)
        shutil.copytree(f"{folder}.copy", folder)
        assert killed_at(point, folder, work) or is_async, point  # two threads never take quite the same way
        with opened(folder) as checkpoints:
            again = ToyRun(seed=1).resume(checkpoints)
            assert_same(again.tensors(), first if again.step == 1 else second)
            seen.add(again.step)
            assert not [p for p in folder.iterdir() if p.name.startswith(".step")], point
            if point % (4 * stride) == 0:
                again.train(1).save(checkpoints)
                assert again.step in steps_in(folder)
    assert seen == {1, 2}
    return n_points


def test_killed_at_some_points(tmp_path: Path) -> None:
    assert kill_and_check(tmp_path, stride=13, is_async=False) > 100


@pytest.mark.slow  # a copy of the process for each of some hundred points
@pytest.mark.parametrize(("stride", "is_async"), [(1, False), (5, True)], ids=["waiting", "in the background"])
def test_killed_at_every_point(tmp_path: Path, stride: int, is_async: bool) -> None:
    n_points = kill_and_check(tmp_path, stride, is_async)
    print(f"{n_points} points")


@pytest.mark.parametrize("n_pieces", [0, 1, 7, 15, 30, 40])
def test_a_full_disk_is_one_clear_error_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_pieces: int
) -> None:
    run = run_with_one_checkpoint(tmp_path)
    first = run.tensors()
    with opened(tmp_path) as checkpoints:
        run.train(1)
        with monkeypatch.context() as patch:
            patch.setattr(io, "open", full_disk_open(n_pieces, tmp_path))
            with pytest.raises(OLMoCheckpointError, match=r"no room for step00000002 .*What was complete there is int"):
                run.save(checkpoints)
        assert steps_in(tmp_path) == [1]
        assert not list(tmp_path.glob(".step*"))
        assert_same(ToyRun(seed=1).resume(checkpoints).tensors(), first)
        run.save(checkpoints)  # room was made
        assert steps_in(tmp_path) == [1, 2]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_later_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Some file systems find out that they are full when the file is flushed, or a folder entry is made."""
    run = run_with_one_checkpoint(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as checkpoints:
        run.train(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(OLMoCheckpointError, match="no room for step00000002"):
                run.save(checkpoints)
        assert steps_in(tmp_path) == [1]
        assert ToyRun(seed=1).resume(checkpoints).step == 1

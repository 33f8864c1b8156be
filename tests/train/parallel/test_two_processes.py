"""Several processes take the step that one takes: loss and gradients, whatever they share and split.

All cases run in one set of processes, because starting one costs more than all of them. A failure in one process may
leave the others waiting; cases after it then fail too, by their time limit.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from torch import multiprocessing
from two_process_cases import CASES, FOUR, work

pytestmark = pytest.mark.slow  # fresh processes import torch


def run(world_size: int, names: list[str], folder: Path) -> Path:
    """Let `world_size` processes go through the cases of these names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, args=(world_size, port, str(folder), names), nprocs=world_size)
    return folder


def asked(request: pytest.FixtureRequest, argument: str) -> list[str]:
    """Cases that this session runs, in their order."""
    wanted = [i.callspec.params for i in request.session.items if hasattr(i, "callspec")]
    return [params[argument] for params in wanted if argument in params]


@pytest.fixture(scope="module")
def of_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a file for each case and process, of the cases that were asked for."""
    return run(2, asked(request, "case_of_two"), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def of_four(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for four processes."""
    return run(4, asked(request, "case_of_four"), tmp_path_factory.mktemp("four"))


def check(folder: Path, number: int, world_size: int) -> None:
    for rank in range(world_size):
        result = json.loads((folder / f"{number}.{rank}.json").read_text())
        assert "error" not in result, f"process {rank}:\n{result['error']}"
        print(f"process {rank}: {result['ok']}")


@pytest.mark.parametrize("case_of_two", CASES)
def test_two_processes(case_of_two: str, of_two: Path) -> None:
    check(of_two, list(CASES).index(case_of_two), 2)


@pytest.mark.parametrize("case_of_four", FOUR)
def test_four_processes(case_of_four: str, of_four: Path) -> None:
    check(of_four, list(FOUR).index(case_of_four), 4)

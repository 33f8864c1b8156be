"""A batch on Ray: what is asked of a cluster, and a real one of two machines of which a worker, then a machine is lost.

Ray is heavy, so it is no part of the extra `test`: `pip install 'molmo[ray]'` and `pytest -m slow` run the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from olmo.exceptions import OLMoConfigurationError, OLMoError, OLMoInputError
from olmo.models.auto import from_pretrained
from olmo.models.molmo.molmo import Molmo
from olmo.serve.batch import ray as batch_ray
from olmo.serve.batch.ray import RayWorkers
from olmo.serve.batch.registry import Registry
from olmo.serve.batch.run import BATCH_LIMITS, BatchCounts, run_batch
from olmo.serve.batch.worker import WorkerPlan
from olmo.serve.serve_config import ServeConfig

CONFIG = ServeConfig(**{**BATCH_LIMITS, "model_name": "tiny", "max_rows": 2, "default_max_tokens": 8})


def plan_of(folder: Path) -> WorkerPlan:
    return WorkerPlan(load=partial(from_pretrained, folder / "tiny"), config=CONFIG, base=folder)


class Cluster:
    """Stands for the few calls of `ray` that are made before anything is run."""

    def __init__(self, *machines: dict[str, float], is_running: bool = True) -> None:
        self.machines, self.is_running = list(machines), is_running
        self.started: list[dict[str, Any]] = []
        self.n_stops = 0

    def is_initialized(self) -> bool:
        return self.is_running

    def init(self, **options: Any) -> None:
        self.started.append(options)

    def nodes(self) -> list[dict[str, Any]]:
        lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [lost, *({"Alive": True, "Resources": machine} for machine in self.machines)]

    def shutdown(self) -> None:
        self.n_stops += 1


@pytest.mark.parametrize(("machines", "options", "n_workers", "n_cpus"), [
    ([{"CPU": 8.0}], {}, 1, 8), ([{"CPU": 8.0}, {"CPU": 8.0}], {}, 2, 8), ([{"CPU": 8.0}, {"CPU": 4.0}], {}, 2, 4),
    ([{"CPU": 8.0}], {"n_workers": 4}, 4, 2), ([{"CPU": 0.0}, {"CPU": 2.0}], {}, 1, 2),
    ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"uses_gpu": True}, 2, 4),
    ([{"CPU": 8.0}, {"CPU": 3.0}], {"n_workers": 3}, 3, 3),
])  # fmt: skip
def test_workers_share_out_the_cluster(
    machines: list[dict[str, float]],
    options: dict[str, Any],
    n_workers: int,
    n_cpus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(*machines)
    monkeypatch.setattr(batch_ray, "_import_ray", lambda: cluster)
    workers = RayWorkers(plan_of(tmp_path), **options)
    assert (workers.n_workers, workers._n_cpus) == (n_workers, n_cpus)
    workers.close()
    assert not cluster.started and not cluster.n_stops, "a cluster of somebody else is left running"


def test_without_a_cluster_one_is_started_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster({"CPU": 2.0}, is_running=False)
    monkeypatch.setattr(batch_ray, "_import_ray", lambda: cluster)
    RayWorkers(plan_of(tmp_path)).close()
    assert cluster.started[0]["include_dashboard"] is False and cluster.n_stops == 1
    for options, match in (({"n_workers": 3}, "room for 2 workers"), ({"uses_gpu": True}, "a CPU and a GPU")):
        with pytest.raises(OLMoError, match=match):
            RayWorkers(plan_of(tmp_path), **options)
    assert cluster.n_stops == 3

    def unreachable(**_: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(cluster, "init", unreachable)
    with pytest.raises(OLMoError, match="no Ray cluster can be reached or started: nobody answers"):
        RayWorkers(plan_of(tmp_path))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OLMoConfigurationError, match=r"pip install 'molmo\[ray\]'"):
        RayWorkers(plan_of(tmp_path))


def test_a_chunk_is_begun_so_often_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(max_begins=2)
    assert [registry.begin(5) for _ in range(3)] == [True, True, False] and registry.begin(6)
    registry.end(6)
    assert [registry.begin(6) for _ in range(3)] == [True, True, False]


def test_workers_that_load_are_not_asked_whether_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10_000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    registry = Registry(max_begins=2)
    for name in ("a", "b", "c"):
        registry.add(name, name.upper())
    registry.is_loaded("a")
    registry.is_loaded("c")
    registry.forget(["c"])
    assert registry.known() == {"a": "A"}
    now[0] += 3600
    assert registry.known() == {"a": "A", "b": "B"}, "nobody loads so long"


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two machines with a CPU each, both of them processes here; this one is connected to it."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = cluster_utils.Cluster()
        try:
            memory = 200 * 2**20
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=memory)
            second = cluster.add_node(num_cpus=1, object_store_memory=memory)
            ray.init(address=cluster.address, log_to_driver=False)
            yield lambda: cluster.remove_node(second, allow_graceful=False)
        finally:
            ray.shutdown()
            cluster.shutdown()


def written(folder: Path, n: int) -> Path:
    rows: list[Any] = [{"id": i, "prompt": f"question {i}"} for i in range(n)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{bad\n")
    return folder / "in.jsonl"


def processes_of_workers() -> list[int]:
    """Processes that answer and do not load any more, by the name that Ray gives them."""
    psutil = pytest.importorskip("psutil")
    named = [(process.pid, (process.info["cmdline"] or [""])[0]) for process in psutil.process_iter(["cmdline"])]
    return [pid for pid, name in named if name.startswith("ray::") and "RayWorker" in name and "__init__" not in name]


@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_costs_no_row(machines: Any, model: Molmo, tmp_path: Path) -> None:
    """And each row is written once: the part is looked at after every one."""
    model.save_checkpoint(tmp_path / "tiny")
    source, target = written(tmp_path, 60), tmp_path / "out.jsonl"
    workers = RayWorkers(plan_of(tmp_path))
    assert workers.n_workers == 2
    killed: list[int] = []
    told: list[tuple[int, int]] = []

    def kill(n_done: int, n_rows: int) -> None:
        told.append((n_done, n_rows))
        if n_done >= 20 and not killed and (processes := processes_of_workers()):
            killed.append(processes[0])
            os.kill(processes[0], signal.SIGKILL)

    counts = run_batch(workers, source, target, CONFIG, progress=kill)
    workers.close()
    assert killed and counts == BatchCounts(61, 1, 0) and told == [(n, 61) for n in range(62)]
    run_batch(model, source, tmp_path / "alone.jsonl", CONFIG)
    assert target.read_text() == (tmp_path / "alone.jsonl").read_text()


class StoppedError(Exception):
    """Stands for a kill of the process that writes."""


@pytest.mark.slow
def test_a_stopped_batch_goes_on_also_when_a_machine_is_lost(
    machines: Any, model: Molmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of the two machines: one is gone after it."""
    monkeypatch.setattr(batch_ray, "_LOOK_S", 2.0)
    monkeypatch.setattr(batch_ray, "_PING_S", 15.0)
    model.save_checkpoint(tmp_path / "tiny")
    source, target = written(tmp_path, 40), tmp_path / "out.jsonl"
    workers = RayWorkers(plan_of(tmp_path))

    def stop(n_done: int, _: int) -> None:
        if n_done == 9:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_batch(workers, source, target, CONFIG, progress=stop)
    there = (tmp_path / "out.jsonl.part").read_text().splitlines()[1:]
    assert len(there) == 9
    lost: list[int] = []

    def lose(n_done: int, _: int) -> None:
        if n_done >= 15 and not lost:
            lost.append(n_done)
            machines()

    counts = run_batch(workers, source, target, CONFIG, progress=lose)
    assert lost and counts == BatchCounts(41, 1, 9)
    assert set(there) <= set(target.read_text().splitlines()), "they stand as they were written"
    run_batch(model, source, tmp_path / "alone.jsonl", CONFIG)
    assert target.read_text() == (tmp_path / "alone.jsonl").read_text()


@pytest.mark.slow
def test_what_a_worker_says_ends_the_batch(machines: Any, tmp_path: Path) -> None:
    with pytest.raises(OLMoError, match=str(tmp_path / "tiny")):
        run_batch(RayWorkers(plan_of(tmp_path), 1), written(tmp_path, 2), tmp_path / "out.jsonl", CONFIG)
    with pytest.raises(OLMoInputError, match="there is no file"):
        run_batch(RayWorkers(plan_of(tmp_path), 1), tmp_path / "none.jsonl", tmp_path / "out.jsonl", CONFIG)

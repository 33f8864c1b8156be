"""One batch on several machines: chunks of rows go through Ray Data, lines come back and are written by who asked.

The package `ray` is imported when workers are made. Its reports of usage are turned off by the command line
(`RAY_USAGE_STATS_ENABLED=0`); whoever starts a cluster by hand sets that there.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from olmo.exceptions import OLMoConfigurationError, OLMoError
from olmo.serve.batch.registry import Registry
from olmo.serve.batch.source import Chunk
from olmo.serve.batch.worker import BatchWorker, Lines, WorkerPlan, told_failure

_TASKS = 2  # chunks that a worker answers at a time, so that its rows are taken while one waits for its last answer
_LOOK_S = 10.0  # without an answer, until the machines are counted
_PING_S = 30.0
_MAX_BEGINS = 2  # of a chunk at which workers die; after that its rows are asked alone


class RayWorkers:
    """Workers of a Ray cluster.

    It is the one that this process is connected to, else the one that `RAY_ADDRESS` names or that was started on this
    machine with `ray start`, else a new one of this machine alone. Every machine has this package and sees model, rows
    and pictures under the same paths.

    Args:
        plan: what each worker is to be.
        n_workers: how many; None: one for each GPU, or without GPUs one for each machine.
        uses_gpu: each takes a GPU.

    Raises:
        OLMoConfigurationError: the package is missing.
        OLMoError: no cluster can be reached, or it has no room for so many.
    """

    def __init__(self, plan: WorkerPlan, n_workers: int | None = None, uses_gpu: bool = False) -> None:
        self._ray = _import_ray()
        self._plan, self._n_gpus, self._n_cpus = plan, int(uses_gpu), 1
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            try:
                self._ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise OLMoError(f"no Ray cluster can be reached or started: {error}") from error
        machines = self._machines()
        n_usual = self._room() if uses_gpu else sum(machine.get("CPU", 0) >= 1 for machine in machines)
        self.n_workers = n_workers or max(1, n_usual)
        share = sum(int(m.get("CPU", 0)) for m in machines) // self.n_workers
        self._n_cpus = max(1, min([share, *(int(m["CPU"]) for m in machines if m.get("CPU", 0) >= 1)]))
        while self._n_cpus > 1 and self._room() < self.n_workers:  # machines of different sizes
            self._n_cpus -= 1
        if (room := self._room()) < self.n_workers:
            self.close()
            raise OLMoError(
                f"the cluster has room for {room} workers, each with a CPU{' and a GPU' if uses_gpu else ''}, and "
                f"{self.n_workers} were asked for; say how many with --workers"
            )

    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Lines]:
        """Lines as they come, in any order; those of chunks at which a worker died more than once are missing.

        Args:
            chunks: what is to be answered.

        Raises:
            OLMoError: the model cannot be loaded or failed, rows cannot be read, or no machine is left.
        """
        registry = self._registry()
        replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        is_left = threading.Event()
        rows = self._dataset(chunks, registry).iter_batches(batch_size=None, batch_format="numpy")
        threading.Thread(target=_pump, args=(rows, replies, is_left), name="olmo-batch-ray", daemon=True).start()
        del rows  # whoever holds it keeps the workers
        try:
            while True:
                try:
                    told = replies.get(timeout=_LOOK_S)
                except queue.Empty:
                    self._let_go_of_lost(registry)
                    continue
                if told is None:
                    return
                if isinstance(told, Exception):
                    reason = (str(told).strip().splitlines() or [""])[0]
                    raise OLMoError(f"Ray stopped: {type(told).__name__}: {reason}; run it again, it goes on") from told
                reply = json.loads(told)
                if "failure" in reply:
                    raise OLMoError(reply["failure"])
                yield Lines(reply["settings"], [(number, line) for number, line in reply["lines"]])
        finally:
            is_left.set()
            self._ray.kill(registry)

    def close(self) -> None:
        """Let go of the cluster, where it was not there before."""
        if self._is_ours:
            self._ray.shutdown()

    def _dataset(self, chunks: Sequence[Chunk], registry: Any) -> Any:
        data = self._ray.data
        items = [{"chunk": json.dumps(asdict(chunk))} for chunk in chunks]
        rows = data.from_items(items, override_num_blocks=len(items))
        rows.context.enable_progress_bars = False
        rows.context.max_errored_blocks = -1  # what is missing is asked again
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        n_workers = min(self.n_workers, max(1, self._room()), len(chunks))
        pool = data.ActorPoolStrategy(
            size=n_workers, max_tasks_in_flight_per_actor=_TASKS, enable_true_multi_threading=True,
            max_concurrent_calls_per_actor=_TASKS + 1,  # one more, which hears whether it is alive
        )  # fmt: skip
        return rows.map_batches(
            _RayWorker, fn_constructor_args=(self._plan, self._n_cpus, registry), batch_size=None, compute=pool,
            num_cpus=self._n_cpus, num_gpus=self._n_gpus,
        )  # fmt: skip

    def _registry(self) -> Any:
        """Knows the workers; on this machine, so that it outlives any other."""
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = affinity(node_id=self._ray.get_runtime_context().get_node_id(), soft=False)
        return self._ray.remote(num_cpus=0, scheduling_strategy=here)(Registry).remote(_MAX_BEGINS)

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Workers that the machines hold."""
        room = 0
        for machine in self._machines():
            by_cpu = int(machine.get("CPU", 0)) // self._n_cpus
            room += min(by_cpu, int(machine.get("GPU", 0))) if self._n_gpus else by_cpu
        return room

    def _let_go_of_lost(self, registry: Any) -> None:
        """Give up workers for which there is no machine any more.

        Ray keeps the chunks of a worker until it can be restarted, which may be never.
        """
        if self._room() >= self.n_workers:
            return
        workers = self._ray.get(registry.known.remote())
        pings = {worker.__ray_ready__.remote(): name for name, worker in workers.items()}
        if not pings:
            return
        heard, lost = self._ray.wait(list(pings), num_returns=len(pings), timeout=_PING_S)
        for ping in lost:
            self._ray.kill(workers[pings[ping]], no_restart=True)
        self._ray.get(registry.forget.remote([pings[ping] for ping in lost]))
        if not heard:
            raise OLMoError("no machine with a worker is left; run it again, it goes on where it was")


class _RayWorker:
    """What Ray runs in each process of the pool. It tells what went wrong; only its death is an error to Ray."""

    def __init__(self, plan: WorkerPlan, n_threads: int, registry: Any) -> None:
        self._ray, self._registry = _import_ray(), registry
        context = self._ray.get_runtime_context()
        name = context.get_actor_id()
        self._ray.get(registry.add.remote(name, context.current_actor))
        torch.set_num_threads(n_threads)
        self._worker: BatchWorker | None = None
        self._failure = ""
        try:
            self._worker = BatchWorker(plan)
        except Exception as error:
            self._failure = told_failure(error)
        self._ray.get(registry.is_loaded.remote(name))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"reply": [self._reply(Chunk(**json.loads(chunk))) for chunk in batch["chunk"]]}

    def _reply(self, chunk: Chunk) -> str:
        if self._worker is None:
            return json.dumps({"failure": self._failure})
        lines: list[tuple[int, dict[str, Any]]] = []
        if not self._ray.get(self._registry.begin.remote(chunk.start)):  # Ray would try it for ever
            return json.dumps({"settings": self._worker.settings, "lines": []})
        try:
            self._worker.answer(chunk, lambda number, line: lines.append((number, line)))
        except Exception as error:
            return json.dumps({"failure": told_failure(error)})
        self._registry.end.remote(chunk.start)
        return json.dumps({"settings": self._worker.settings, "lines": lines})


def _pump(rows: Any, replies: queue.SimpleQueue[Any], is_left: threading.Event) -> None:
    """Hand on replies of a pool, then None; or what ended it."""
    try:
        for batch in rows:
            for reply in batch["reply"]:
                replies.put(str(reply))
            if is_left.is_set():
                return
        replies.put(None)
    except Exception as error:
        replies.put(error)


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise OLMoConfigurationError(f"--engine ray needs {error.name}: pip install 'molmo[ray]'") from None
    return ray

"""Several processes answer one batch: rows at which one dies are asked again, each row is written once."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.auto import from_pretrained
from olmo.models.base import ModelBase
from olmo.models.molmo.molmo import Molmo
from olmo.serve.batch.processes import ProcessWorkers
from olmo.serve.batch.run import BATCH_LIMITS, BatchCounts, run_batch
from olmo.serve.batch.source import Chunk
from olmo.serve.batch.worker import BatchWorker, Lines, WorkerPlan
from olmo.serve.serve_config import ServeConfig

CONFIG = ServeConfig(**{**BATCH_LIMITS, "model_name": "tiny", "max_rows": 2, "default_max_tokens": 4})


def written(folder: Path, n: int) -> Path:
    rows: list[Any] = [{"id": i, "prompt": f"question {i}"} for i in range(n)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Here:
    """Workers without processes: they answer chunks from the last to the first, and "die" at rows.

    Args:
        worker: answers.
        deaths: how often one dies at a row, by its number.
    """

    n_workers = 2

    def __init__(self, worker: BatchWorker, deaths: dict[int, int] | None = None) -> None:
        self.worker, self.deaths = worker, dict(deaths or {})
        self.asked: list[list[int]] = []

    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Lines]:
        for chunk in reversed(chunks):
            lines: list[tuple[int, dict[str, Any]]] = []
            self.worker.answer(chunk, lambda number, line, lines=lines: lines.append((number, line)))
            self.asked.append([number for number, _ in lines])
            for place, (number, _) in enumerate(lines):
                if self.deaths.get(number, 0) > 0:
                    self.deaths[number] -= 1
                    del lines[place:]
                    break
            else:
                yield Lines(self.worker.settings, lines)
                continue
            if lines:
                yield Lines(self.worker.settings, lines)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def worker(model: Molmo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchWorker]:
    made = BatchWorker(WorkerPlan(load=lambda: model, config=CONFIG, base=tmp_path_factory.mktemp("base")))
    yield made
    made.close()


def test_rows_come_in_any_order_and_are_those_of_one_process(model: Molmo, worker: BatchWorker, tmp_path: Path) -> None:
    source = written(tmp_path, 30)
    told: list[tuple[int, int]] = []
    here = Here(worker)
    counts = run_batch(here, source, tmp_path / "out.jsonl", CONFIG, progress=lambda *at: told.append(at))
    assert counts == BatchCounts(30, 0, 0) and told == [(n, 30) for n in range(31)]
    assert len(here.asked) >= 4 * here.n_workers, "small enough for all to have something to do to the end"
    run_batch(model, source, tmp_path / "alone.jsonl", CONFIG)
    assert lines_of(tmp_path / "out.jsonl") == lines_of(tmp_path / "alone.jsonl")


def test_a_row_that_kills_is_asked_alone_and_at_last_an_error(worker: BatchWorker, tmp_path: Path) -> None:
    here = Here(worker, {3: 1, 11: 2, 17: 99})
    counts = run_batch(here, written(tmp_path, 20), tmp_path / "out.jsonl", CONFIG)
    found = lines_of(tmp_path / "out.jsonl")
    assert counts == BatchCounts(20, 1, 0) and [line["row"] for line in found] == list(range(20))
    assert [line["row"] for line in found if line["error"]] == [17] and found[17]["error"]["code"] == "worker_died"
    assert [asked for asked in here.asked if 17 in asked][1:] == [[17], [17]]
    assert sum(7 in asked for asked in here.asked) == 1, "who stands in another chunk is asked once"


def test_nothing_answered_is_an_error_of_the_machine(worker: BatchWorker, tmp_path: Path) -> None:
    with pytest.raises(OLMoError, match="every process died"):
        run_batch(Here(worker, dict.fromkeys(range(4), 9)), written(tmp_path, 4), tmp_path / "out.jsonl", CONFIG)
    assert not (tmp_path / "out.jsonl").exists()


class StoppedError(Exception):
    """Stands for a kill."""


def test_rows_that_are_there_are_not_asked_again(model: Molmo, worker: BatchWorker, tmp_path: Path) -> None:
    source, target = written(tmp_path, 24), tmp_path / "out.jsonl"

    def stop(n_done: int, _: int) -> None:
        if n_done == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_batch(Here(worker), source, target, CONFIG, progress=stop)
    there = {json.loads(line)["row"] for line in (tmp_path / "out.jsonl.part").read_text().splitlines()[1:]}
    assert len(there) == 10 and min(there) > 0, "they came from behind"
    here = Here(worker)
    assert run_batch(here, source, target, CONFIG) == BatchCounts(24, 0, 10)
    assert sorted(number for asked in here.asked for number in asked) == sorted(set(range(24)) - there)
    run_batch(model, source, tmp_path / "alone.jsonl", CONFIG)
    assert lines_of(target) == lines_of(tmp_path / "alone.jsonl")


def test_one_process_goes_on_where_several_stopped_and_the_other_way(
    model: Molmo, worker: BatchWorker, tmp_path: Path
) -> None:
    source, target = written(tmp_path, 12), tmp_path / "out.jsonl"

    def stop_at(n: int) -> Any:
        def stop(n_done: int, _: int) -> None:
            if n_done == n:
                raise StoppedError

        return stop

    for answering, n in ((Here(worker), 3), (model, 7)):
        with pytest.raises(StoppedError):
            run_batch(answering, source, target, CONFIG, progress=stop_at(n))
    assert run_batch(Here(worker), source, target, CONFIG) == BatchCounts(12, 0, 7)
    assert [line["row"] for line in lines_of(target)] == list(range(12))


def test_workers_with_another_model_do_not_go_on(model: Molmo, worker: BatchWorker, tmp_path: Path) -> None:
    source, target = written(tmp_path, 6), tmp_path / "out.jsonl"

    def stop(n_done: int, _: int) -> None:
        if n_done == 6:
            raise StoppedError

    with pytest.raises(StoppedError):  # when nothing was left to do but to finish
        run_batch(model, source, target, CONFIG, progress=stop)
    other = Here(worker)
    other.worker = type("Other", (), {"settings": {**worker.settings, "weights": "x"}, "answer": worker.answer})()
    with pytest.raises(OLMoInputError, match="differs in weights;"):
        run_batch(other, source, target, CONFIG)
    assert run_batch(Here(worker), source, target, CONFIG) == BatchCounts(6, 0, 6)


def test_no_rows_are_no_error(worker: BatchWorker, tmp_path: Path) -> None:
    assert run_batch(Here(worker), written(tmp_path, 0), tmp_path / "out.jsonl", CONFIG) == BatchCounts(0, 0, 0)
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_rows_that_are_gone_stop_the_batch(worker: BatchWorker, tmp_path: Path) -> None:
    chunk = Chunk(path=str(tmp_path / "gone.jsonl"), start=0, stop=1)
    with pytest.raises(OLMoInputError, match="cannot read"):
        worker.answer(chunk, lambda *_: None)


def broken_load() -> ModelBase:
    raise OLMoInputError("there is no such model")


@pytest.mark.slow
def test_processes_answer_as_one_does_and_a_killed_one_is_replaced(model: Molmo, tmp_path: Path) -> None:
    model.save_checkpoint(tmp_path / "tiny")
    source = written(tmp_path, 60)
    plan = WorkerPlan(load=partial(from_pretrained, tmp_path / "tiny"), config=CONFIG, base=tmp_path)
    workers = ProcessWorkers([plan, plan])
    killed: list[int] = []

    def kill(n_done: int, _: int) -> None:
        if n_done == 30:
            killed.append(workers._running[0].process.pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    try:
        counts = run_batch(workers, source, tmp_path / "out.jsonl", CONFIG, progress=kill)
        assert killed and killed[0] not in [one.process.pid for one in workers._running]
    finally:
        workers.close()
    assert counts == BatchCounts(60, 0, 0)
    run_batch(model, source, tmp_path / "alone.jsonl", CONFIG)
    assert lines_of(tmp_path / "out.jsonl") == lines_of(tmp_path / "alone.jsonl")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("olmo-batch")]


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_told_once(tmp_path: Path) -> None:
    workers = ProcessWorkers([WorkerPlan(load=broken_load, config=CONFIG, base=tmp_path)] * 2)
    try:
        with pytest.raises(OLMoError, match="there is no such model"):
            run_batch(workers, written(tmp_path, 4), tmp_path / "out.jsonl", CONFIG)
    finally:
        workers.close()

"""`run_batch`: answers to a file of requests, in the order of the rows, resumed after a kill.

One process answers with a model that is handed in, or several with models of their own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.base import ModelBase
from olmo.serve.answering import Answering, video_spec
from olmo.serve.batch.answers import answer_rows, deciding
from olmo.serve.batch.files import BatchOutput
from olmo.serve.batch.rows import BatchRow, read_row
from olmo.serve.batch.source import BatchSource, RowReader, picture_names, request_files
from olmo.serve.batch.worker import Workers
from olmo.serve.errors import ApiError
from olmo.serve.local_media import LocalMedia
from olmo.serve.serve_config import ServeConfig

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and how many there are."""

BATCH_LIMITS: dict[str, Any] = {
    "max_new_tokens": 2**20, "max_prompt_chars": 10**8, "max_schema_bytes": 2**20, "max_images": 1000,
    "max_media_bytes": 2**31, "media_memory_bytes": 2**32, "media_timeout_s": 120.0, "request_timeout_s": 1e9,
    "max_waiting": 2**20,
}  # fmt: skip
"""Limits where nobody else's requests are at stake; all others are those of a server."""

_CHUNK_ROWS = 1024  # of one process, which holds no more than it answers of them
_MAX_CHUNKS = 4096  # of several processes; more would only cost bookkeeping
_MAX_ALONE = 2  # times that a row is asked alone after a process died at it


@dataclass(frozen=True)
class BatchCounts:
    """What a batch came to.

    Attributes:
        n_rows: rows of the file.
        n_failed: those whose line is an error.
        n_kept: those that an earlier run had answered.
    """

    n_rows: int
    n_failed: int
    n_kept: int


def run_batch(
    model: ModelBase | Workers,
    source: Path,
    target: Path,
    config: ServeConfig,
    *,
    prompt: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> BatchCounts:
    """Answer each row of a file. A row that cannot be answered gets a line that says why, and the others go on.

    Run it again after it was stopped, and it goes on, also with more or fewer processes.

    Args:
        model: any model; nobody else may use it meanwhile. Or processes that have models of their own, of the same
            `config`; they are not closed.
        source: JSONL, Parquet or a folder; see `olmo.serve.batch.source` and `olmo.serve.batch.rows`. Relative paths in
            it start from its folder.
        target: JSONL to write, a line for each row in the order of the rows. It is there only when it is whole.
        config: limits, and what rows call the model.
        prompt: the question about each picture, where the source is a folder of pictures.
        fresh: drop the answers that are there.
        progress: is told of rows done.

    Raises:
        OLMoInputError: no such file, the target is there, or an earlier run's answers do not belong to it.
        OLMoError: the engine failed; what was answered is kept.
    """
    check_files(source, target, prompt=prompt, fresh=fresh)
    rows = BatchSource(source, prompt, without=target)
    output = BatchOutput(target)
    told = progress or (lambda *_: None)

    def write(number: int, line: dict[str, Any]) -> None:
        if output.add(number, line):
            told(output.n_done, rows.n_rows)

    try:
        output.open(fresh)
        output.check({"rows": rows.digest})
        n_kept = output.n_done
        told(n_kept, rows.n_rows)
        if isinstance(model, ModelBase):
            output.settle({"rows": rows.digest, **deciding(model, config)})
            asyncio.run(_answer_here(model, config, rows, output, write))
        else:
            _answer_by(model, config, rows, output, write)
        output.finish()
    finally:
        output.close()
    return BatchCounts(output.n_done, output.n_failed, n_kept)


def check_files(source: Path, target: Path, *, prompt: str | None = None, fresh: bool = False) -> None:
    """Refuse what cannot be read, and to lose anything.

    Args:
        source: file of requests, or folder.
        target: file of answers.
        prompt: the question about each picture of a folder.
        fresh: the target may be replaced.

    Raises:
        OLMoInputError: no such file, nothing in the folder, or a target that is there or cannot be meant.
    """
    if prompt is None:
        request_files(source, without=target)
    else:
        picture_names(source)
    if target.suffix.lower() == ".parquet":
        raise OLMoInputError(f"{target}: answers are written as JSON lines; name it .jsonl")
    if target.is_dir():
        raise OLMoInputError(f"{target} is a folder; name a file for the answers")
    if target.exists() and target.samefile(source):
        raise OLMoInputError(f"{target} is the file that is read; choose another name for the answers")
    if target.exists() and not fresh:
        raise OLMoInputError(f"{target} is there already; choose another name, or replace it with --fresh")


async def _answer_here(
    model: ModelBase,
    config: ServeConfig,
    source: BatchSource,
    output: BatchOutput,
    write: Callable[[int, dict[str, Any]], None],
) -> None:
    def rows() -> Iterator[BatchRow]:
        reader = RowReader()
        for chunk in source.chunks(_CHUNK_ROWS, output.is_done):
            for number, line in reader.lines(chunk):
                yield read_row(number, line, config.model_name)

    answering = Answering(model, config, LocalMedia(config, video_spec(model), source.base))
    try:
        await answer_rows(answering, rows(), write)
    finally:
        await answering.close()


def _answer_by(
    workers: Workers,
    config: ServeConfig,
    source: BatchSource,
    output: BatchOutput,
    write: Callable[[int, dict[str, Any]], None],
) -> None:
    """Let processes answer; rows at which one died are asked again alone, and at last have an error."""

    def ask(size: int) -> bool:
        """Whether rows are left to ask."""
        chunks = list(source.chunks(size, output.is_done))
        if not chunks and output.n_done == n_kept:  # an earlier run left nothing; it is compared all the same
            chunks = [replace(chunk, wanted=()) for chunk in source.chunks(1)][:1]
        for found in workers.answers(chunks) if chunks else ():
            output.settle({"rows": source.digest, **found.settings})
            for number, line in found.lines:
                write(number, line)
        return output.n_done < source.n_rows

    n_kept = output.n_done
    size = min(8 * config.max_rows, math.ceil((source.n_rows - n_kept) / (4 * workers.n_workers)))
    if not ask(max(1, size, source.n_rows // _MAX_CHUNKS)):
        return
    if output.n_done == n_kept:
        raise OLMoError("every process died before it had answered a row; run it again with fewer workers or max_rows")
    for _ in range(_MAX_ALONE):
        if not ask(1):
            return
    died = ApiError(500, "each process that answered this row died", code="worker_died")
    for chunk in source.chunks(1, output.is_done):
        for number, line in RowReader().lines(chunk):
            write(number, read_row(number, line, config.model_name).failed(died))

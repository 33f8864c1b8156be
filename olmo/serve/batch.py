"""`run_batch`: answers to a file of requests, decoded together, written in order, resumed after a kill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo import __version__
from olmo.eval.predictions import weights_fingerprint
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.base import ModelBase
from olmo.serve.answering import Answering, video_spec
from olmo.serve.batch_files import BatchOutput, file_digest
from olmo.serve.batch_rows import POINTS_URL, BatchRow, read_rows
from olmo.serve.errors import as_api_error
from olmo.serve.local_media import LocalMedia
from olmo.serve.replies import Reply
from olmo.serve.serve_config import ServeConfig

Progress = Callable[[int], None]
"""Is told how many rows are done."""

BATCH_LIMITS: dict[str, Any] = {
    "max_new_tokens": 2**20, "max_prompt_chars": 10**8, "max_schema_bytes": 2**20, "max_images": 1000,
    "max_media_bytes": 2**31, "media_memory_bytes": 2**32, "media_timeout_s": 120.0, "request_timeout_s": 1e9,
    "max_waiting": 2**20,
}  # fmt: skip
"""Limits where nobody else's requests are at stake; all others are those of a server."""

_AHEAD = 1024  # answers that wait for the one before them at most


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
    model: ModelBase,
    source: Path,
    target: Path,
    config: ServeConfig,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> BatchCounts:
    """Answer each row of a file. A row that cannot be answered gets a line that says why, and the others go on.

    Run it again after it was stopped, and it goes on.

    Args:
        model: any model; nobody else may use it meanwhile.
        source: JSONL; see `olmo.serve.batch_rows`. Relative paths in it start from its folder.
        target: JSONL to write, a line for each row in the order of the rows. It is there only when it is whole.
        config: limits, and what rows call the model.
        fresh: drop the answers that are there.
        progress: is told of rows done.

    Raises:
        OLMoInputError: no such file, the target is there, or an earlier run's answers do not belong to it.
        OLMoError: the engine failed; what was answered is kept.
    """
    check_files(source, target, fresh)
    output = BatchOutput(target)
    try:
        output.begin(_settings(model, source, config), fresh)
        n_kept = output.n_done
        asyncio.run(_answer_all(model, source, output, config, progress or (lambda _: None)))
        output.finish()
    finally:
        output.close()
    return BatchCounts(output.n_done, output.n_failed, n_kept)


def check_files(source: Path, target: Path, fresh: bool = False) -> None:
    """Refuse what cannot be read, and to lose anything.

    Args:
        source: file of requests.
        target: file of answers.
        fresh: the target may be replaced.

    Raises:
        OLMoInputError: no such file, or a target that is there.
    """
    if not source.is_file():
        raise OLMoInputError(f"there is no file {source} (current folder: {Path.cwd()}); check the path")
    if target.is_dir():
        raise OLMoInputError(f"{target} is a folder; name a file for the answers")
    if target.exists() and target.samefile(source):
        raise OLMoInputError(f"{target} is the file that is read; choose another name for the answers")
    if target.exists() and not fresh:
        raise OLMoInputError(f"{target} is there already; choose another name, or replace it with --fresh")


def _settings(model: ModelBase, source: Path, config: ServeConfig) -> dict[str, Any]:
    """What decides the answers."""
    chosen = model.config.asdict()
    return {
        "rows": file_digest(source),
        "weights": weights_fingerprint(model),
        "model name": config.model_name,
        "default_max_tokens": config.default_max_tokens,
        "settings of the model": {name: chosen[name] for name in _DECIDING if name in chosen},
        "olmo": __version__,
    }


_DECIDING = ("selection_ratio", "max_frames", "max_fps", "frame_sampling", "frame_resolution")


async def _answer_all(
    model: ModelBase, source: Path, output: BatchOutput, config: ServeConfig, progress: Progress
) -> None:
    media = LocalMedia(config, video_spec(model), source.absolute().parent)
    answering = Answering(model, config, media)

    def write(line: dict[str, Any]) -> None:
        output.add(line)
        progress(output.n_done)

    try:
        progress(output.n_done)
        await _in_order(answering, read_rows(source, config.model_name, output.n_done), write)
    finally:
        await answering.close()


async def _in_order(answering: Answering, rows: Iterable[BatchRow], write: Callable[[dict[str, Any]], None]) -> None:
    """Answer so many rows at a time, and write each when all before it are written."""
    places = asyncio.Semaphore(2 * answering.config.max_rows)  # as many as run, and as many that are prepared meanwhile
    lines: deque[asyncio.Task[dict[str, Any]]] = deque()

    async def one(row: BatchRow) -> dict[str, Any]:
        try:
            return await _line(answering, row)
        finally:
            places.release()

    try:
        for row in rows:
            await places.acquire()
            lines.append(asyncio.create_task(one(row)))
            while lines and (lines[0].done() or len(lines) >= _AHEAD):
                write(await lines.popleft())
        while lines:
            write(await lines.popleft())
    finally:
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)


async def _line(answering: Answering, row: BatchRow) -> dict[str, Any]:
    """The line that answers a row, or says why it is not answered."""
    if row.request is None:
        assert row.error is not None, "one of the two is there"
        return row.failed(row.error)
    try:
        running = await answering.begin(row.request, "")
        reply = Reply(row.request, running, answering.model.tokenizer)
        try:
            async for piece in running.pieces():
                reply.add(piece)
        finally:
            running.close()
        return row.answered(reply.points() if row.url == POINTS_URL else reply.completion())
    except Exception as error:
        if not answering.engine.is_alive:
            raise OLMoError(f"the model failed: {error}; run it again, it goes on where it was") from error
        return row.failed(as_api_error(error))

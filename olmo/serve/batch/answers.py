"""Rows of a batch become lines: asked so many at a time, each as if it were alone. Knows no files of answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from olmo import __version__
from olmo.eval.predictions import weights_fingerprint
from olmo.exceptions import OLMoError
from olmo.models.base import ModelBase
from olmo.serve.answering import Answering
from olmo.serve.batch.rows import POINTS_URL, BatchRow
from olmo.serve.errors import as_api_error
from olmo.serve.replies import Reply
from olmo.serve.serve_config import ServeConfig

Write = Callable[[int, dict[str, Any]], object]
"""Is handed the number of a row and the line that answers it."""

_AHEAD = 1024  # answers that wait for the one before them at most
_DECIDING = ("selection_ratio", "max_frames", "max_fps", "frame_sampling", "frame_resolution")


def deciding(model: ModelBase, config: ServeConfig) -> dict[str, Any]:
    """What decides the answers, beside the rows.

    Args:
        model: the model.
        config: what rows call it, and how long answers are.
    """
    chosen = model.config.asdict()
    return {
        "weights": weights_fingerprint(model),
        "model name": config.model_name,
        "default_max_tokens": config.default_max_tokens,
        "settings of the model": {name: chosen[name] for name in _DECIDING if name in chosen},
        "olmo": __version__,
    }


async def answer_rows(answering: Answering, rows: Iterable[BatchRow], write: Write) -> None:
    """Answer rows together, and write each when all before it are written.

    Args:
        answering: the model.
        rows: what is asked.
        write: is called in this thread.

    Raises:
        OLMoError: the engine failed.
    """
    places = asyncio.Semaphore(2 * answering.config.max_rows)  # as many as run, and as many that are prepared meanwhile
    lines: deque[asyncio.Task[tuple[int, dict[str, Any]]]] = deque()

    async def one(row: BatchRow) -> tuple[int, dict[str, Any]]:
        try:
            return row.number, await _line(answering, row)
        finally:
            places.release()

    try:
        for row in rows:
            await places.acquire()
            lines.append(asyncio.create_task(one(row)))
            while lines and (lines[0].done() or len(lines) >= _AHEAD):
                write(*await lines.popleft())
        while lines:
            write(*await lines.popleft())
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

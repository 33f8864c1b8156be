"""Processes that decode for a server. One that dies or hangs is replaced; only the request it worked on fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo.serve.errors import ApiError, too_large
from olmo.serve.media_worker import message_head

_START_S = 30.0
_MAX_HEADER = 1 << 20
_MODULE = "olmo.serve.media_worker"


@dataclass(frozen=True)
class Decoded:
    """What came out of a file.

    Attributes:
        pixels: uint8 `[H, W, 3]` of a picture, `[T, H, W, 3]` of a video.
        seconds: times of the frames of a video.
        duration_s: its length in seconds.
    """

    pixels: np.ndarray
    seconds: tuple[float, ...] = ()
    duration_s: float | None = None


class MediaPool:
    """Decodes pictures and videos outside this process.

    Args:
        n_workers: processes, started when they are needed.
        memory_bytes: address space of each.
        timeout_s: for one file.
    """

    def __init__(self, n_workers: int, memory_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._places = asyncio.Semaphore(n_workers)
        self._idle: list[asyncio.subprocess.Process] = []

    async def decode(self, data: bytes, **settings: Any) -> Decoded:
        """Decode one file.

        Args:
            data: the file.
            **settings: see `olmo.serve.media_worker.decode`.

        Raises:
            ApiError: 400: not a picture or video that is read, or damaged; 413: past a limit.
        """
        async with self._places:
            worker = await self._worker()
            try:
                async with asyncio.timeout(self.timeout_s):
                    header, pixels = await _converse(worker, settings, data)
            except TimeoutError:
                raise too_large(f"the file takes more than {self.timeout_s:g} s to decode", "media_too_slow") from None
            except (asyncio.IncompleteReadError, OSError, ValueError):
                raise ApiError(
                    400, "the file cannot be decoded: its decoder crashed or ran out of memory", code="invalid_media"
                ) from None
            else:
                self._idle.append(worker)
            finally:
                if worker not in self._idle:
                    await _end(worker)
        if not header["ok"]:
            if header["is_too_large"]:
                raise too_large(header["message"], "media_too_large")
            raise ApiError(400, header["message"], code="invalid_media")
        return Decoded(pixels, tuple(header.get("seconds", ())), header.get("duration_s"))

    async def close(self) -> None:
        """End all processes."""
        while self._idle:
            await _end(self._idle.pop())

    async def _worker(self) -> asyncio.subprocess.Process:
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
            await _end(worker)
        # Nothing of this process's environment is handed on: it may hold a key.
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return await asyncio.wait_for(
            asyncio.create_subprocess_exec(
                sys.executable, "-m", _MODULE, str(self._memory_bytes),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env=environment, start_new_session=True, limit=1 << 20,
            ),
            _START_S,
        )  # fmt: skip


async def _converse(
    worker: asyncio.subprocess.Process, settings: dict[str, Any], data: bytes
) -> tuple[dict[str, Any], np.ndarray]:
    """Hand a file over and take what comes back; a ValueError where that makes no sense."""
    assert worker.stdin is not None and worker.stdout is not None, "it was started with pipes"
    worker.stdin.write(message_head(settings, len(data)))
    worker.stdin.write(data)
    await worker.stdin.drain()
    length = int.from_bytes(await worker.stdout.readexactly(4), "big")
    if length > _MAX_HEADER:
        raise ValueError("the answer of a decoder is too long")
    header = json.loads(await worker.stdout.readexactly(length))
    pixels = np.frombuffer(await worker.stdout.readexactly(header["n_bytes"]), np.uint8)
    return header, pixels.reshape(header["shape"]) if header["ok"] else pixels


async def _end(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        worker.kill()
    await worker.wait()

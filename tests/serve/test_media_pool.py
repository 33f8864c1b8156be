"""Processes that decode: pixels come back, and one that dies, hangs or is left alone is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from local_server import picture_bytes
from PIL import Image

from olmo.preprocessing.image import load_image
from olmo.serve.errors import ApiError
from olmo.serve.media_pool import MediaPool

MEMORY = 2**31
IMAGE: dict[str, Any] = {"kind": "image", "max_pixels": 50_000_000}
VIDEO: dict[str, Any] = {
    "kind": "video", "max_pixels": 10**6, "sampling": "uniform", "max_frames": 4, "max_fps": None, "seed": 0,
    "timeout_s": 60.0, "max_bytes": 10**8,
}  # fmt: skip


def run(work: Callable[[MediaPool], Awaitable[None]], n_workers: int = 1, memory: int = MEMORY, t: float = 90) -> None:
    async def all_of_it() -> None:
        pool = MediaPool(n_workers, memory, t)
        try:
            await work(pool)
        finally:
            await pool.close()

    asyncio.run(all_of_it())


@contextlib.asynccontextmanager
async def refused(status: int) -> AsyncIterator[None]:
    with pytest.raises(ApiError) as caught:
        yield
    assert caught.value.status == status, caught.value


async def still_works(pool: MediaPool, old_id: int) -> None:
    assert (await pool.decode(picture_bytes(5, 4), **IMAGE)).pixels.shape == (4, 5, 3)
    assert pool._idle[0].pid != old_id, "the process was replaced"
    with pytest.raises(ProcessLookupError):
        os.kill(old_id, 0)


def test_pictures_and_videos_come_back() -> None:
    frames = [np.full((10, 12, 3), 20 * i, np.uint8) for i in range(8)]
    out = io.BytesIO()
    Image.fromarray(frames[0]).save(
        out, "PNG", save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]], duration=500
    )

    async def work(pool: MediaPool) -> None:
        data = picture_bytes(300, 200, "JPEG")
        first = await pool.decode(data, **IMAGE)
        np.testing.assert_array_equal(first.pixels, load_image(data, 10**6))
        process = pool._idle[0].pid
        clip = await pool.decode(out.getvalue(), **VIDEO)
        assert clip.pixels.shape == (4, 10, 12, 3) and clip.duration_s == pytest.approx(4.0)
        chosen = [int(frame[0, 0, 0]) // 20 for frame in clip.pixels]
        assert clip.seconds == pytest.approx([0.5 * i for i in chosen])
        async with refused(400):
            await pool.decode(data[:100], **IMAGE)
        async with refused(413):
            await pool.decode(data, kind="image", max_pixels=100)
        assert pool._idle[0].pid == process, "an error of a file ends no process"

    run(work)


def test_a_process_that_dies_is_replaced_and_its_request_fails() -> None:
    async def work(pool: MediaPool) -> None:
        await pool.decode(picture_bytes(), **IMAGE)
        process = pool._idle[0].pid
        os.kill(process, signal.SIGSTOP)
        asked = asyncio.ensure_future(pool.decode(picture_bytes(), **IMAGE))
        await asyncio.sleep(0.2)
        os.kill(process, signal.SIGKILL)
        async with refused(400):
            await asked
        await still_works(pool, process)
        waiting = pool._idle[0].pid
        os.kill(waiting, signal.SIGKILL)
        await asyncio.sleep(0.3)
        await still_works(pool, waiting)

    run(work)


def test_a_process_that_hangs_is_replaced_and_its_request_fails() -> None:
    async def work(pool: MediaPool) -> None:
        await pool.decode(picture_bytes(), **IMAGE)
        process = pool._idle[0].pid
        os.kill(process, signal.SIGSTOP)
        pool.timeout_s = 0.3
        async with refused(413):
            await pool.decode(picture_bytes(), **IMAGE)
        pool.timeout_s = 90
        await still_works(pool, process)

    run(work)


def test_a_process_whose_request_was_given_up_is_replaced() -> None:
    async def work(pool: MediaPool) -> None:
        await pool.decode(picture_bytes(), **IMAGE)
        process = pool._idle[0].pid
        os.kill(process, signal.SIGSTOP)
        asked = asyncio.ensure_future(pool.decode(picture_bytes(), **IMAGE))
        await asyncio.sleep(0.2)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        await still_works(pool, process)

    run(work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only Unix limits the memory of a process")
def test_memory_is_limited() -> None:
    out = io.BytesIO()
    Image.new("RGB", (9000, 5000)).save(out, "PNG", compress_level=1)

    async def work(pool: MediaPool) -> None:
        async with refused(413):
            await pool.decode(out.getvalue(), **IMAGE)
        assert (await pool.decode(picture_bytes(5, 4), **IMAGE)).pixels.shape == (4, 5, 3)

    run(work, memory=2**28)


def test_a_process_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "of-this-process")

    async def work(pool: MediaPool) -> None:
        await pool.decode(picture_bytes(), **IMAGE)
        with open(f"/proc/{pool._idle[0].pid}/environ", "rb") as file:
            assert b"of-this-process" not in file.read()

    if os.path.isdir("/proc/self"):
        run(work)

"""Damaged pictures and videos through the processes that decode: pixels or a plain refusal, in time, within limits."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from local_server import data_url, error_of, question, serving
from mutated_files import Kind, is_video_alone, mutated, whole_files

from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig
from olmo.serve.errors import ApiError
from olmo.serve.media_pool import MediaPool

MAX_PIXELS, MEMORY, HANGS_S = 300_000, 2**30, 30.0
QUICK, MANY, OVER_HTTP = 400, 8000, 60
IMAGE: dict[str, Any] = {"kind": "image", "max_pixels": MAX_PIXELS}
VIDEO: dict[str, Any] = {
    "kind": "video", "max_pixels": MAX_PIXELS, "sampling": "uniform", "max_frames": 4, "max_fps": None, "seed": 0,
    "timeout_s": HANGS_S / 2, "max_bytes": 10**8,
}  # fmt: skip


class Fuzzed:
    """What became of files.

    Attributes:
        outcomes: how often pixels came, how often which status.
        slowest_s: the longest that a file took.
        crashes: files whose decoder crashed, which is allowed and told.
        most_bytes: the most address space that a process was seen with.
    """

    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.slowest_s, self.most_bytes = 0.0, 0
        self.crashes: list[Kind] = []

    async def decode(self, pool: MediaPool, kind: Kind, data: bytes) -> None:
        start = time.monotonic()
        as_video = is_video_alone(kind)
        try:
            decoded = await pool.decode(data, **(VIDEO if as_video else IMAGE))
        except ApiError as error:
            assert error.status in (400, 413), error
            assert len(str(error)) < 1000 and "0x" not in str(error), "no address of memory, no page of text"
            self.outcomes[f"{kind} {error.status}"] += 1
            if "crashed" in str(error):
                self.crashes.append(kind)
        else:
            height, width = decoded.pixels.shape[-3:-1]
            assert height * width <= MAX_PIXELS and decoded.pixels.shape[-1] == 3
            assert decoded.pixels.ndim == (4 if as_video else 3)
            self.outcomes[f"{kind} pixels"] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        for process in pool._idle:
            self.most_bytes = max(self.most_bytes, psutil.Process(process.pid).memory_info().vms)


def fuzz(n: int) -> Fuzzed:
    """Decode so many damaged files in one process of its own, replaced where it has to be."""
    fuzzed = Fuzzed()

    async def all_of_them(files: list[tuple[Kind, bytes]]) -> None:
        pool = MediaPool(1, MEMORY, HANGS_S)
        try:
            for kind, data in whole_files().items():
                await fuzzed.decode(pool, kind, data)
                assert fuzzed.outcomes[f"{kind} pixels"] == 1, f"a whole file of {kind} is read"
            for kind, data in files:
                await fuzzed.decode(pool, kind, data)
            assert len(pool._idle) <= 1
        finally:
            await pool.close()
        assert not pool._idle

    asyncio.run(all_of_them(damaged(n)))
    return fuzzed


def damaged(n: int) -> list[tuple[Kind, bytes]]:
    """About so many damaged files, as many of each kind, the same each time."""
    each = -(-n // len(whole_files()))
    return [(kind, data) for kind in whole_files() for data in damaged_of(kind, each)]


def damaged_of(kind: Kind, n: int) -> list[bytes]:
    files: list[bytes] = []

    @settings(
        max_examples=n, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutated(kind))
    def collect(data: bytes) -> None:
        files.append(data)

    collect()
    return files


def decoders() -> set[psutil.Process]:
    """Processes that decode, of this one."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "olmo.serve.media_worker" in process.cmdline():
                found.add(process)
    return found


def check(fuzzed: Fuzzed, n: int) -> None:
    told = sum(fuzzed.outcomes.values())
    assert told >= n * 0.9, fuzzed.outcomes
    assert fuzzed.slowest_s < HANGS_S, f"a file took {fuzzed.slowest_s:.1f} s"
    assert fuzzed.most_bytes <= MEMORY, "the limit of memory holds"
    pixels = sum(count for name, count in fuzzed.outcomes.items() if name.endswith("pixels"))
    assert 0 < pixels < told - 1, "some are still read, some are refused"
    assert len(fuzzed.crashes) <= n // 100, f"decoders crash a lot: {collections.Counter(fuzzed.crashes)}"


def test_damaged_files_are_pixels_or_a_refusal_in_time() -> None:
    check(fuzz(QUICK), QUICK)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_pixels_or_a_refusal_in_time() -> None:
    check(fuzz(MANY), MANY)


@pytest.mark.parametrize("n", [OVER_HTTP, pytest.param(20 * OVER_HTTP, marks=pytest.mark.slow)])
def test_damaged_files_over_http_are_answered_or_refused_and_leave_nothing(model: Molmo, n: int) -> None:
    config = VideoOlmoConfig.from_molmo(model.config, pooling_h=2, pooling_w=2, max_frames=4, max_fps=2.0)
    statuses: collections.Counter[int] = collections.Counter()
    of_others = decoders()  # of servers that other tests still use
    with serving(VideoOlmo(config).eval(), media_timeout_s=HANGS_S) as server:
        for kind, data in damaged(n):
            asked = question("what is this?", max_tokens=1)
            if is_video_alone(kind):
                part = {"type": "video_url", "video_url": {"url": data_url(data, "video/any")}}
            else:
                part = {"type": "image_url", "image_url": {"url": data_url(data)}}
            asked["messages"][0]["content"].append(part)
            answer = server.client.post("/v1/chat/completions", json=asked)
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                error_of(answer, 400 if answer.status_code == 400 else 413)
        server.idle()
        assert statuses[200] and statuses[400] and server.ask().status_code == 200
        assert len(decoders() - of_others) <= 2
    assert not decoders() - of_others, "no process is left behind"


def test_every_kind_of_file_is_damaged() -> None:
    files = damaged(QUICK)
    assert {kind for kind, _ in files} == set(whole_files())
    assert sum(data != whole_files()[kind] for kind, data in files) > 0.9 * len(files)
    assert len(set(files)) > 0.6 * len(files), "most are tried once"

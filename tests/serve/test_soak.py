"""Very many requests of clients who come and go: none is lost, and no memory, file, thread, process or place leaks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from local_server import data_url, picture_bytes, serving
from storm import MANNERS, Storm

from olmo.models.molmo.molmo import Molmo

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
ROWS, WAITING, MANY = 8, 24, 700
LEAK_MIB = 40
"""What a server may grow by after its first `MANY` requests, in twice as many."""

PICTURES = [
    data_url(picture_bytes(64, 48, kind, seed), "image/any") for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))
]


def test_a_storm_of_requests_loses_none_and_leaves_nothing(model: Molmo) -> None:
    with serving(model, max_rows=ROWS, max_waiting=WAITING) as server:
        storm = Storm(f"{server.base}/v1", "tiny", PICTURES, max_tokens=4)
        asyncio.run(storm.learn())
        asyncio.run(storm.blow(40, 16, seed=1))  # whatever is started once is started now
        server.idle()
        before = settled_files(psutil.Process(), 10**6)
        outcome = asyncio.run(storm.blow(200, 24, seed=0))
        server.idle()
        assert not outcome.lost, outcome.lost[:5]
        assert set(outcome.made) == set(MANNERS) and sum(outcome.made.values()) == 200
        assert settled_files(psutil.Process(), before + 4) <= before + 4, "files stay open"
        assert asyncio.run(storm.burst(ROWS + WAITING)) == {200: ROWS + WAITING}, "a place was not given back"
        counts = server.server.answering.engine.counts
        assert counts.n_requests and not server.metric("molmo_running_answers")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousands_of_requests_leak_nothing() -> None:
    with program(f"max_rows={ROWS}", f"max_waiting={WAITING}") as (process, base):
        storm = Storm(base, "molmo-nano", PICTURES)
        asyncio.run(storm.learn())
        outcomes = [asyncio.run(storm.blow(MANY, 24, seed=0))]
        settled(base)
        n_files, n_bytes = settled_files(process, 10**6), process.memory_info().rss
        n_threads = process.num_threads()
        for seed in (1, 2):
            outcomes.append(asyncio.run(storm.blow(MANY, 24, seed=seed)))
        settled(base)
        assert not [lost for outcome in outcomes for lost in outcome.lost][:5]
        assert sum(sum(outcome.made.values()) for outcome in outcomes) == 3 * MANY
        grown = (process.memory_info().rss - n_bytes) / MIB
        print(f"{2 * MANY:,} requests: {grown:.1f} MiB, {process.num_fds()} files, {process.num_threads()} threads")
        assert grown < LEAK_MIB, f"{2 * MANY:,} requests made the server {grown:.1f} MiB larger"
        assert settled_files(process, n_files + 4) <= n_files + 4, "files stay open"
        assert process.num_threads() <= n_threads + 2
        assert len(process.children(recursive=True)) <= 2, "no more decoders than were asked for"
        assert asyncio.run(storm.burst(ROWS + WAITING)) == {200: ROWS + WAITING}, "a place was not given back"
        assert figure(base, "molmo_requests_total") >= 3 * MANY, "every request is counted, also those of who left"


@contextmanager
def program(*limits: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server of the bundled model in a process of its own."""
    command = [sys.executable, "-m", "olmo.cli.main", "serve", "molmo-nano", "--port", "0", *limits]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        base = next((word for word in line.split() if word.startswith("http://")), "")
        assert base, f"the server did not start: {line}"
        yield psutil.Process(started.pid), base
        started.terminate()
        assert started.wait(60) == 0, "it does not end as it should"
    finally:
        started.kill()
        started.wait()


def figure(base: str, name: str) -> float:
    """The sum of a figure over its labels."""
    lines = httpx.get(base.replace("/v1", "/metrics"), timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def settled(base: str) -> None:
    """Wait until nothing waits and nothing runs."""
    for _ in range(600):
        if figure(base, "molmo_waiting_requests") == figure(base, "molmo_running_answers") == 0:
            return
        time.sleep(0.1)
    raise AssertionError("a request is still running")


def settled_files(process: psutil.Process, wanted: int) -> int:
    """Open files of a process, once they are no more than wanted; those of connections take a moment to go."""
    n_files = 0
    for _ in range(100):
        n_files = process.num_fds()
        if n_files <= wanted:
            break
        time.sleep(0.1)
    return n_files

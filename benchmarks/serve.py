"""Requests a second and time to the first token of `molmo serve`: answers decoded together against one at a time.

Both sides are servers of their own with the bundled model, on this machine; the peer is ours with `max_rows=1`. They
take turns, and both must give the same answers. Each client streams one question about a picture after the other.

    python benchmarks/serve.py --save
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from harness import ROOT, Row, hardware, interleave, paired_ratio, parse_options, report

CLIENTS = (1, 8, 32)
SIDES = {"together": 32, "one at a time": 1}
"""Rows of each side."""

PROMISED_AT, PROMISED_RATIO = 8, 3.0
MAX_TOKENS = 128
PICTURE = ROOT / "olmo" / "cli" / "assets" / "demo.png"
QUESTIONS = (
    "Describe this picture.",
    "Point to the penguins.",
    "List all objects with their positions as JSON.",
    "How many penguins are there?",
)
_NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 32, "maxItems": 32}
WORKLOADS: dict[str, dict[str, Any]] = {
    "short answers": {},
    "long answers": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": _NUMBERS}}
    },
}
"""What is asked beside a question: nothing, so that answers are short, or a list of 32 numbers, which is long."""


@dataclass(frozen=True)
class Answered:
    """One answer: the text, and seconds to its first piece and to its end."""

    text: str
    first_s: float
    whole_s: float


@contextmanager
def server(max_rows: int, threads: int) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "olmo.cli.main", "serve", "molmo-nano", f"max_rows={max_rows}", "--port", "0"]
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        assert process.stdout is not None, "it was started with a pipe"
        line = process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line}"
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait()


async def answered(client: httpx.AsyncClient, base: str, number: int, more: dict[str, Any]) -> Answered:
    """Ask the question of this number, with `more` in the request, as a stream."""
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    parts = [
        {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    body = {"model": "molmo-nano", "messages": [{"role": "user", "content": parts}], "max_tokens": MAX_TOKENS, **more}
    text, first_s, start = "", None, time.perf_counter()
    async with client.stream("POST", f"{base}/chat/completions", json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            piece = json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
            if piece and first_s is None:
                first_s = time.perf_counter() - start
            text += piece
    whole_s = time.perf_counter() - start
    return Answered(text, whole_s if first_s is None else first_s, whole_s)


async def many(base: str, n_clients: int, n_requests: int, more: dict[str, Any]) -> tuple[float, list[Answered]]:
    """Seconds until all requests are answered, and the answers in the order of their numbers."""
    numbers, found = iter(range(n_requests)), dict[int, Answered]()

    async def one_client(client: httpx.AsyncClient) -> None:
        for number in numbers:
            found[number] = await answered(client, base, number, more)

    limits = httpx.Limits(max_connections=n_clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        start = time.perf_counter()
        await asyncio.gather(*(one_client(client) for _ in range(n_clients)))
        took = time.perf_counter() - start
    return took, [found[number] for number in range(n_requests)]


def measure(bases: dict[str, str], workload: str, n_clients: int, n_requests: int, n_runs: int) -> Row:
    """Both sides with so many clients."""
    answers: dict[str, list[Answered]] = {side: [] for side in bases}
    texts: dict[str, list[list[str]]] = {side: [] for side in bases}

    def one_run(side: str) -> float:
        took, found = asyncio.run(many(bases[side], n_clients, n_requests, WORKLOADS[workload]))
        answers[side] += found
        texts[side].append([answer.text for answer in found])
        return n_requests / took

    figures = interleave({side: lambda side=side: one_run(side) for side in bases}, n_runs)
    ours, peer = SIDES
    peer_figure = statistics.median(figures[peer])
    return Row(
        case=f"{workload}, {n_clients} client{'s' if n_clients > 1 else ''}",
        ours=statistics.median(figures[ours]),
        peer=peer_figure,
        limit=PROMISED_RATIO * peer_figure if n_clients == PROMISED_AT else None,
        extra={
            "paired_ratio": paired_ratio(figures[ours], figures[peer]),
            "first_token_ms": {side: 1000 * statistics.median(a.first_s for a in answers[side]) for side in bases},
            "first_token_p95_ms": {side: 1000 * percentile([a.first_s for a in answers[side]]) for side in bases},
            "whole_ms": {side: 1000 * statistics.median(a.whole_s for a in answers[side]) for side in bases},
            "n_requests": n_requests,
            "characters": statistics.mean(len(a.text) for a in answers[ours]),
            "equal_answers": all(run == texts[ours][0] for runs in texts.values() for run in runs),
            "runs": figures,
        },
    )


def percentile(values: list[float], share: float = 0.95) -> float:
    """The value that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def run(options: Any) -> None:
    """Measure and report."""
    per_client, n_runs = (1, 1) if options.quick else (4, 5)
    clients = CLIENTS[:2] if options.quick else CLIENTS
    machine = hardware()
    with ExitStack() as stack:
        bases = {side: stack.enter_context(server(rows, options.threads)) for side, rows in SIDES.items()}
        for base in bases.values():  # processes that decode start with the first pictures
            asyncio.run(many(base, 2, 4, {}))
        rows = [measure(bases, w, n, max(8, n * per_client), n_runs) for w in WORKLOADS for n in clients]
    result = report(
        "serve",
        "requests/s",
        rows,
        options=options,
        packages=("uvicorn", "fastapi", "httpx"),
        machine=machine,
        notes={
            "peer": "the same server with max_rows=1",
            "limit_is": f"our promise: {PROMISED_RATIO:g} times the peer with {PROMISED_AT} clients",
            "max_tokens": MAX_TOKENS,
            "equal_answers": all(bool(row.extra and row.extra["equal_answers"]) for row in rows),
        },
    )
    if not result["equal_answers"]:
        raise SystemExit("the two sides gave different answers, so the figures do not compare the same work")


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]))

"""Requests a second and time to the first token of `molmo serve`: answers decoded together against one at a time.

Both sides are servers of their own with the bundled model, on this machine; the peer is ours with `max_rows=1`. They
take turns, and both must give the same answers. Each client streams one question about a picture after the other.

A second peer is `transformers serve` with a model of the same size, both untrained; see `transformers_served`.

    python benchmarks/serve.py --save
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from harness import ROOT, Row, hardware, interleave, paired_ratio, parse_options, report
from transformers_served import NotServedError, save_ours, save_peer, transformers_server

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

AGAINST = "against transformers serve"
AGAINST_TOKENS = 64


@dataclass(frozen=True)
class Answered:
    """One answer: the text, seconds to its first piece and to its end, and its tokens where the server tells them."""

    text: str
    first_s: float
    whole_s: float
    n_tokens: int | None = None


@dataclass(frozen=True)
class Served:
    """A server: its address, and what it calls its model."""

    base: str
    model: str


@contextmanager
def server(max_rows: int, threads: int, model: str = "molmo-nano") -> Iterator[Served]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "olmo.cli.main", "serve", model, f"max_rows={max_rows}", "--port", "0"]
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        assert process.stdout is not None, "it was started with a pipe"
        line = process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line}"
        yield Served(next(word for word in line.split() if word.startswith("http://")), Path(model).name)
    finally:
        process.terminate()
        process.wait()


async def answered(client: httpx.AsyncClient, served: Served, number: int, more: dict[str, Any]) -> Answered:
    """Ask the question of this number, with `more` in the request, as a stream."""
    picture = base64.b64encode(PICTURE.read_bytes()).decode()
    parts = [
        {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    body = {"model": served.model, "messages": [{"role": "user", "content": parts}], "max_tokens": MAX_TOKENS, **more}
    text, first_s, n_tokens, start = "", None, None, time.perf_counter()
    async with client.stream("POST", f"{served.base}/chat/completions", json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            n_tokens = (chunk.get("usage") or {}).get("completion_tokens", n_tokens)
            piece = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if piece and first_s is None:
                first_s = time.perf_counter() - start
            text += piece
    whole_s = time.perf_counter() - start
    return Answered(text, whole_s if first_s is None else first_s, whole_s, n_tokens)


async def many(served: Served, n_clients: int, n_requests: int, more: dict[str, Any]) -> tuple[float, list[Answered]]:
    """Seconds until all requests are answered, and the answers in the order of their numbers."""
    numbers, found = iter(range(n_requests)), dict[int, Answered]()

    async def one_client(client: httpx.AsyncClient) -> None:
        for number in numbers:
            found[number] = await answered(client, served, number, more)

    limits = httpx.Limits(max_connections=n_clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        start = time.perf_counter()
        await asyncio.gather(*(one_client(client) for _ in range(n_clients)))
        took = time.perf_counter() - start
    return took, [found[number] for number in range(n_requests)]


def measure(
    sides: dict[str, Served], workload: str, more: dict[str, Any], n_clients: int, n_requests: int, n_runs: int
) -> Row:
    """Both sides with so many clients; the first of them is ours."""
    answers: dict[str, list[Answered]] = {side: [] for side in sides}
    texts: dict[str, list[list[str]]] = {side: [] for side in sides}

    def one_run(side: str) -> float:
        took, found = asyncio.run(many(sides[side], n_clients, n_requests, more))
        answers[side] += found
        texts[side].append([answer.text for answer in found])
        return n_requests / took

    figures = interleave({side: lambda side=side: one_run(side) for side in sides}, n_runs)
    ours, peer = sides
    peer_figure = statistics.median(figures[peer])
    return Row(
        case=f"{workload}, {n_clients} client{'s' if n_clients > 1 else ''}",
        ours=statistics.median(figures[ours]),
        peer=peer_figure,
        limit=PROMISED_RATIO * peer_figure if n_clients == PROMISED_AT and workload != AGAINST else None,
        extra={
            "paired_ratio": paired_ratio(figures[ours], figures[peer]),
            "first_token_ms": {side: 1000 * statistics.median(a.first_s for a in answers[side]) for side in sides},
            "first_token_p95_ms": {side: 1000 * percentile([a.first_s for a in answers[side]]) for side in sides},
            "whole_ms": {side: 1000 * statistics.median(a.whole_s for a in answers[side]) for side in sides},
            "n_requests": n_requests,
            "characters": statistics.mean(len(a.text) for a in answers[ours]),
            "equal_answers": all(run == texts[ours][0] for runs in texts.values() for run in runs),
            "tokens": {side: sorted({a.n_tokens for a in answers[side]}, key=str) for side in sides},
            "runs": figures,
        },
    )


def percentile(values: list[float], share: float = 0.95) -> float:
    """The value that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def against_transformers(options: Any, clients: tuple[int, ...], per_client: int, n_runs: int) -> tuple[list[Row], str]:
    """Rows against `transformers serve`, and what is to be said of the peer; no rows where it does not run."""
    asked = {"max_tokens": AGAINST_TOKENS, "stream_options": {"include_usage": True}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ours, peer = Path(folder) / "untrained", Path(folder) / "llava"
        n_ours, n_peer = save_ours(ours), save_peer(peer)
        try:
            base = stack.enter_context(transformers_server(peer, options.threads))
        except NotServedError as error:
            return [], f"transformers serve does not run here: {error}"
        sides = {
            "molmo serve": stack.enter_context(server(max(SIDES.values()), options.threads, str(ours))),
            "transformers serve": Served(base, str(peer)),
        }
        for served in sides.values():
            asyncio.run(many(served, 2, 4, asked))
        rows = [measure(sides, AGAINST, asked, n, max(8, n * per_client), n_runs) for n in clients]
    for row in rows:
        told = row.extra["tokens"] if row.extra else {}
        if any(found != [AGAINST_TOKENS] for found in told.values()):
            raise SystemExit(f"answers of other lengths, so the figures do not compare the same work: {told}")
    return rows, (
        f"transformers serve with an untrained LLaVA of {n_peer:,} parameters; ours an untrained Molmo of {n_ours:,}; "
        f"{AGAINST_TOKENS} tokens an answer, which are not the same"
    )


def run(options: Any) -> None:
    """Measure and report."""
    per_client, n_runs = (1, 1) if options.quick else (2, 5)
    clients = CLIENTS[:2] if options.quick else CLIENTS
    machine = hardware()
    with ExitStack() as stack:
        sides = {side: stack.enter_context(server(rows, options.threads)) for side, rows in SIDES.items()}
        for served in sides.values():  # processes that decode start with the first pictures
            asyncio.run(many(served, 2, 4, {}))
        rows = [
            measure(sides, w, more, n, max(8, n * per_client), n_runs) for w, more in WORKLOADS.items() for n in clients
        ]
    others, second_peer = against_transformers(options, CLIENTS[:2], 1, min(n_runs, 3))
    result = report(
        "serve",
        "requests/s",
        [*rows, *others],
        options=options,
        packages=("uvicorn", "fastapi", "httpx", "transformers"),
        machine=machine,
        notes={
            "peer": "the same server with max_rows=1",
            "second_peer": second_peer,
            "limit_is": f"our promise: {PROMISED_RATIO:g} times the peer with {PROMISED_AT} clients",
            "max_tokens": MAX_TOKENS,
            "equal_answers": all(bool(row.extra and row.extra["equal_answers"]) for row in rows),
        },
    )
    if not result["equal_answers"]:
        raise SystemExit("the two sides gave different answers, so the figures do not compare the same work")


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]))

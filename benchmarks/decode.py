"""Tokens a second of cached decoding: our language model against transformers' Qwen2, same weights, same threads.

Both read a prompt off the clock, then append the best token again and again, each through its own step and its own
cache. The peer is the quicker of transformers' growing and its preallocated cache. Both must choose the same tokens.

    python benchmarks/decode.py --save
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Row, hardware, interleave, paired_ratio, parse_options, read_bandwidth, report
from llm_pair import PEER_CACHES, Decoder, LlmPair, peer_version
from torch import Tensor

BATCH_SIZES = (1, 8)
PROMPT_LENGTH = 128


def decode(start: Callable[[], Decoder], n_steps: int, chosen: list[Tensor]) -> float:
    """One run: tokens a second over `n_steps`, after one off the clock. The tokens `[B, n_steps]` go to `chosen`."""
    decoder = start()
    token = decoder.logits.argmax(-1)  # [B]
    token = decoder.step(token).argmax(-1)
    tokens = []
    began = time.perf_counter()
    for _ in range(n_steps):
        tokens.append(token)
        token = decoder.step(token).argmax(-1)
    took = time.perf_counter() - began
    chosen.append(torch.stack(tokens, 1))
    return n_steps * len(token) / took


def measure(pair: LlmPair, batch_size: int, prompt_length: int, n_steps: int, n_runs: int, bandwidth: float) -> Row:
    """All sides at one batch size."""
    prompt, room = pair.prompt(batch_size, prompt_length), n_steps + 1
    chosen: dict[str, list[Tensor]] = {"ours": [], **{cache: [] for cache in PEER_CACHES}}

    def one_run(side: str) -> float:
        if side == "ours":
            return decode(lambda: pair.prefill_ours(prompt, room), n_steps, chosen[side])
        return decode(lambda: pair.prefill_peer(prompt, room, side), n_steps, chosen[side])

    figures = interleave({side: lambda side=side: one_run(side) for side in chosen}, n_runs)
    best = max(PEER_CACHES, key=lambda cache: statistics.median(figures[cache]))
    first = chosen["ours"][0]
    return Row(
        case=f"batch {batch_size}",
        ours=statistics.median(figures["ours"]),
        peer=statistics.median(figures[best]),
        limit=batch_size * bandwidth / pair.weight_bytes_read(),
        extra={
            "peer_cache": best,
            "paired_ratio": paired_ratio(figures["ours"], figures[best]),
            "equal_tokens": all(torch.equal(first, tokens) for runs in chosen.values() for tokens in runs),
            "different_tokens_seen": len(first.unique()),
            "runs": figures,
        },
    )


def run(options: Any, pair: LlmPair) -> dict[str, Any]:
    """Measure and report."""
    n_steps, n_runs = (8, 3) if options.quick else (64, 5)
    machine, bandwidth = hardware(), read_bandwidth()
    with torch.inference_mode():
        rows = [
            measure(pair, size, 32 if options.quick else PROMPT_LENGTH, n_steps, n_runs, bandwidth)
            for size in BATCH_SIZES
        ]
    result = report(
        "decode",
        "tokens/s",
        rows,
        options=options,
        packages=("transformers",),
        machine=machine,
        notes={
            "peer": peer_version(),
            "limit_is": f"weights of one step over the measured read bandwidth of {bandwidth / 1e9:.1f} GB/s",
            "equal_tokens": all(bool(row.extra and row.extra["equal_tokens"]) for row in rows),
        },
    )
    if not result["equal_tokens"]:
        raise SystemExit("the two sides chose different tokens, so the figures do not compare the same work")
    return result


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]), LlmPair())

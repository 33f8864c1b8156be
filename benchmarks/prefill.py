"""Tokens a second of reading a prompt: our language model against transformers' Qwen2, same weights, same threads.

Both fill their cache and give the logits of the last token only. The peer is the quicker of transformers' growing and
its preallocated cache. Both must give the same logits.

    python benchmarks/prefill.py --save
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from harness import Row, hardware, interleave, matmul_peak, paired_ratio, parse_options, report, seconds
from llm_pair import PEER_CACHES, LlmPair, peer_version

CASES = ((1, 128), (1, 512), (8, 128), (8, 512))
TOLERANCE = 1e-4  # largest difference of a logit; logits of these weights reach about 5


def measure(pair: LlmPair, batch_size: int, length: int, n_runs: int, peak: float) -> Row:
    """All sides at one batch size and prompt length."""
    prompt = pair.prompt(batch_size, length)
    logits: dict[str, torch.Tensor] = {}

    def one_run(side: str) -> float:
        def read() -> None:
            done = pair.prefill_ours(prompt, 1) if side == "ours" else pair.prefill_peer(prompt, 1, side)
            logits[side] = done.logits

        return prompt.numel() / seconds(read)

    sides = ("ours", *PEER_CACHES)
    for side in sides:  # not counted: the first call reserves memory
        one_run(side)
    figures = interleave({side: lambda side=side: one_run(side) for side in sides}, n_runs)
    best = max(PEER_CACHES, key=lambda cache: statistics.median(figures[cache]))
    difference = max((logits["ours"] - logits[cache]).abs().max().item() for cache in PEER_CACHES)
    return Row(
        case=f"batch {batch_size}, {length} tokens",
        ours=statistics.median(figures["ours"]),
        peer=statistics.median(figures[best]),
        limit=prompt.numel() * peak / pair.prefill_flops(batch_size, length),
        extra={
            "peer_cache": best,
            "paired_ratio": paired_ratio(figures["ours"], figures[best]),
            "largest_logit_difference": difference,
            "largest_logit": logits["ours"].abs().max().item(),
            "runs": figures,
        },
    )


def run(options: Any, pair: LlmPair) -> dict[str, Any]:
    """Measure and report."""
    cases, n_runs = (CASES[::2], 3) if options.quick else (CASES, 5)
    machine, peak = hardware(), matmul_peak()
    with torch.inference_mode():
        rows = [measure(pair, *case, n_runs, peak) for case in cases]
    worst = max(row.extra["largest_logit_difference"] for row in rows if row.extra)
    result = report(
        "prefill",
        "tokens/s",
        rows,
        options=options,
        packages=("transformers",),
        machine=machine,
        notes={
            "peer": peer_version(),
            "limit_is": f"operations of the prompt over the measured matmul peak of {peak / 1e9:.0f} GFLOP/s",
        },
    )
    if worst > TOLERANCE:
        raise SystemExit(f"logits differ by {worst:.2g}, more than {TOLERANCE:g}: this is not the same work")
    return result


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]), LlmPair())

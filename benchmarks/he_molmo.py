"""Time, memory and operations of reading a picture: HeMolmo against Molmo with the same weights.

The prompt has the real layout of 13 crops, the widths are scaled (`he_molmo_pair.py`). Computed from `prompt_cost`
before anything was measured, at a selection ratio of 0.5, 0.25 and 0.125:

    times less arithmetic                  here                 at 7B
    language model, reading the prompt     1.96  3.50  5.60     1.87  3.26  5.15
    first token                            1.60  2.21  2.70     1.56  2.15  2.64
    first token, crops chosen first        1.93  3.43  5.23     1.87  3.26  4.93
    bytes of the cache, share of Molmo's   0.54  0.31  0.20     0.54  0.31  0.20

Goals at 0.25: 2.5 times in the language model, 1.8 to the first token, 2.8 with crops chosen first. With a CUDA device
the same is measured at the shape of the 7B model, where the goals are those of `on_gpu`.

    python benchmarks/he_molmo.py --save
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from harness import Row, hardware, interleave, paired_ratio, parse_options, report
from he_molmo_memory import peak_bytes
from he_molmo_pair import (
    HEIGHT,
    N_TEXT,
    WIDTH,
    HePair,
    answer_seconds,
    cache_bytes,
    counted_flops,
    fused,
    llm_seconds,
)

from olmo.models.base import ModelBase
from olmo.models.he_molmo.cost import PromptCost, prompt_cost
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.presets import preset

RATIOS = (0.25, 0.5, 0.125)
MARKS = (1, 10, 50)  # new tokens of a short answer
PLAIN, CHOSEN = "molmo", "crops chosen first"
GOALS = {"language model": 2.5, "first token": 1.8, CHOSEN: 2.8}  # at 0.25, batch 1
MOST_CACHE, MOST_MEMORY = 0.35, 0.5  # of Molmo's, at 0.25
GPU_GOAL = 2.0  # of the first token with 1 and 8 rows, and of 32 answers of 32 tokens
TOLERANCE = 1e-4  # largest difference of a logit where all tokens are kept

Side = tuple[ModelBase, dict[str, float], PromptCost]


def sides(pair: HePair, ratios: Sequence[float]) -> dict[str, Side]:
    """By name: a model, the settings of its call, and its computed cost."""
    found: dict[str, Side] = {PLAIN: (pair.plain, {}, pair.cost(None))}
    for ratio in ratios:
        found[f"{ratio:g}"] = pair.chosen, {"selection_ratio": ratio}, pair.cost(ratio)
    found[f"0.25, {CHOSEN}"] = pair.by_crops, {"selection_ratio": 0.25}, pair.cost(0.25, "selected_crops")
    return found


def check_same_work(pair: HePair) -> float:
    """Largest difference of the last logits where all tokens are kept."""
    prompts = pair.prompts(1)
    plain, kept = (
        model(prompts.ids, **prompts.pictures, logits_at="last", **settings).logits
        for model, settings in ((pair.plain, {}), (pair.chosen, {"selection_ratio": 1.0}))
    )
    difference = (plain - kept).abs().max().item()
    if difference > TOLERANCE:
        raise SystemExit(f"logits differ by {difference:.2g}, more than {TOLERANCE:g}: this is not the same model")
    return difference


def answers(
    pair: HePair, n_rows: int, ratios: Sequence[float], n_runs: int, marks: Sequence[int], goals: Mapping[str, float]
) -> list[Row]:
    """Time to the first token at every ratio, and of short answers at 0.25; `goals` by a part of the case."""
    prompts, compared = pair.prompts(n_rows), sides(pair, ratios)
    times: dict[str, list[list[float]]] = {name: [] for name in compared}

    def one_run(name: str) -> float:
        model, settings, _ = compared[name]
        times[name].append(answer_seconds(model, prompts, marks, **settings))
        return times[name][-1][0]

    for name in compared:  # not counted: the first call reserves memory
        one_run(name)
        times[name].clear()
    interleave({name: lambda name=name: one_run(name) for name in compared}, n_runs)
    plain, rows = list(zip(*times[PLAIN], strict=True)), []
    first = statistics.median(plain[0])
    for name, (_, _, cost) in compared.items():
        if name == PLAIN:
            continue
        computed = compared[PLAIN][2].total / cost.total
        for place, (n_new, ours) in enumerate(zip(marks, zip(*times[name], strict=True), strict=True)):
            if n_new > 1 and not name.startswith("0.25"):
                continue
            peer = statistics.median(plain[place])
            what = "first token" if n_new == 1 else f"{n_new} tokens"
            part = CHOSEN if n_new == 1 and CHOSEN in name else what
            goal = goals.get(part) if name.startswith("0.25") else None
            limit = first / computed + peer - first
            rows.append(_row(f"{what}, {name}, batch {n_rows}", ours, plain[place], limit, goal))
    return rows


def reading(pair: HePair, ratios: Sequence[float], n_runs: int, goal: float | None) -> list[Row]:
    """Time of the language model alone over the prompt."""
    prompts = pair.prompts(1)
    compared = {name: side for name, side in sides(pair, ratios).items() if CHOSEN not in name}
    given = {name: (model, fused(model, prompts, **settings)) for name, (model, settings, _) in compared.items()}
    one_run: dict[str, Callable[[], float]] = {
        name: lambda model=model, inputs=inputs: llm_seconds(model, inputs) for name, (model, inputs) in given.items()
    }
    for run_once in one_run.values():  # not counted
        run_once()
    figures = interleave(one_run, n_runs)
    plain = statistics.median(figures[PLAIN])
    return [
        _row(
            f"language model, {name}",
            figures[name],
            figures[PLAIN],
            plain * cost.flops.llm / compared[PLAIN][2].flops.llm,
            goal if name == "0.25" else None,
            {"tokens": given[name][1].embeds.shape[1], "tokens_of_molmo": given[PLAIN][1].embeds.shape[1]},
        )
        for name, (_, _, cost) in compared.items()
        if name != PLAIN
    ]


def operations(pair: HePair) -> dict[str, Any]:
    """Counted while running and computed before, of one prompt at every ratio; the encoder's and connector's share."""
    prompts, found = pair.prompts(1), {}
    for name, (model, settings, cost) in sides(pair, RATIOS).items():
        found[name] = {"counted": counted_flops(model, prompts, **settings), "computed": cost.total}
    plain, at_7b = pair.cost(None), prompt_cost(preset("molmo-7b-d"), WIDTH, HEIGHT, n_text_tokens=N_TEXT)
    return {**found, "encoder_and_connector": {"here": _encoder_share(plain), "at_7b": _encoder_share(at_7b)}}


def cache_and_memory(pair: HePair, n_rows: int) -> dict[str, Any]:
    """Bytes of the cache, and the peak above the weights, with their ratios and the promises."""
    prompts = pair.prompts(1)
    cache = {
        "molmo": cache_bytes(pair.plain, fused(pair.plain, prompts)),
        "hemolmo": cache_bytes(pair.chosen, fused(pair.chosen, prompts, selection_ratio=0.25)),
    }
    peak = {"molmo": peak_bytes(None, n_rows), "hemolmo": peak_bytes(0.25, n_rows)}
    return {
        "cache": {**cache, "ratio": cache["hemolmo"] / cache["molmo"], "promise": MOST_CACHE},
        "peak": {
            **peak,
            "ratio": peak["hemolmo"] / peak["molmo"],
            "promise": MOST_MEMORY,
            "rows": n_rows,
            "measured": "peak of resident memory over what the process held before, one crop encoded at a time",
        },
    }


def on_gpu(n_runs: int) -> tuple[list[Row], dict[str, Any]]:
    """The shape of the 7B model in bfloat16. Goals: `GPU_GOAL`, and half of the memory above the weights."""
    config = preset("hemolmo-7b")
    assert isinstance(config, HeMolmoConfig), "it is one"
    pair = HePair(config, device="cuda", dtype=torch.bfloat16, frame_batch_size=13)
    rows = reading(pair, RATIOS, n_runs, None)
    for n_rows, marks in ((1, (1, 10, 50, 200)), (8, (1, 32)), (32, (1, 32))):
        goals = {"32 tokens" if n_rows == 32 else "first token": GPU_GOAL}
        rows += answers(pair, n_rows, (0.25,), n_runs, marks, goals)
    prompts, peak = pair.prompts(16), {}
    for name, (model, settings, _) in sides(pair, (0.25,)).items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        answer_seconds(model, prompts, [32], **settings)
        peak[name] = torch.cuda.max_memory_allocated() - before
    renamed = [replace(row, case=f"7B on {torch.cuda.get_device_name()}, {row.case}") for row in rows]
    return renamed, {"peak": peak, "ratio": peak["0.25"] / peak[PLAIN], "promise": MOST_MEMORY, "rows": 16}


def run(options: Any) -> dict[str, Any]:
    """Measure and report."""
    machine, n_runs = hardware(), 2 if options.quick else 5
    ratios, pair = (0.25,) if options.quick else RATIOS, HePair()
    flops = operations(pair)
    with torch.inference_mode():
        difference = check_same_work(pair)
        rows = reading(pair, ratios, n_runs, GOALS["language model"])
        rows += answers(pair, 1, ratios, n_runs, MARKS, GOALS)
        if not options.quick:
            rows += answers(pair, 4, (0.25,), n_runs, MARKS, {})
        memory = cache_and_memory(pair, 1 if options.quick else 4)
        gpu = None
        if torch.cuda.is_available():
            more, gpu = on_gpu(n_runs)
            rows += more
        else:
            print("no CUDA device: the shape of the 7B model was not measured")
    for row in rows:
        extra = dict(row.extra or {})
        goal = "" if extra["goal"] is None else f", goal {extra['goal']:g}x"
        print(f"{row.case}: {row.ratio:.2f}x (computed {extra['computed_ratio']:.2f}x{goal})")
    return report(
        "he_molmo",
        "s",
        rows,
        options=options,
        machine=machine,
        notes={
            "peer": "Molmo with the same weights in the same process",
            "widths": {"llm": _widths(pair.config.llm), "vit": _widths(pair.config.vision_backbone.vit.spec)},
            "limit_is": "the peer's time to the first token over the ratio of computed operations, plus the peer's "
            "decoding as it is",
            "largest_logit_difference": difference,
            "operations": flops,
            **memory,
            "gpu": gpu,
        },
    )


def _widths(part: Any) -> dict[str, int]:
    """Depth and widths of a part."""
    return {name: getattr(part, name) for name in ("n_layers", "d_model", "n_heads", "mlp_hidden_size")}


def _encoder_share(cost: PromptCost) -> float:
    return (cost.flops.vit + cost.flops.connector) / cost.total


def _row(
    case: str,
    ours: Sequence[float],
    peer: Sequence[float],
    limit: float,
    goal: float | None,
    more: Mapping[str, Any] | None = None,
) -> Row:
    """Times of one case, in seconds."""
    median = statistics.median(peer)
    return Row(
        case=case,
        ours=statistics.median(ours),
        peer=median,
        limit=limit,
        is_higher_better=False,
        extra={
            "computed_ratio": median / limit,
            "goal": goal,
            "paired_ratio": paired_ratio(peer, ours),
            "runs": {"ours": list(ours), "peer": list(peer)},
            **(more or {}),
        },
    )


if __name__ == "__main__":
    run(parse_options((__doc__ or "").splitlines()[0]))

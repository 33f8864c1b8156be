"""Seconds of an answer with each of the options that make answers quicker, against `generate` without any.

    python benchmarks/decode_options.py --save

The bundled model answers questions about the demo picture, greedily. Every option must give the same tokens. `ours` is
with the option, `peer` without, the same model in the same process, in turns.

The limits, written down before the runs. Kept features: the time without the encoder's share of the operations. A kept
beginning: the time without the share of the tokens that are known. Guessing: the passes that are left over those of
plain decoding, as if a pass of several tokens took no longer than one; counted, not guessed. Compiled steps: reading
the prompt as before, and then for each token the bytes of the weights over the measured bandwidth. A compiled prompt:
the operations of the language model over the measured peak of a large product. The time of compiling is not in the
figures; it stands beside them (`compiling_s`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Row, hardware, interleave, matmul_peak, paired_ratio, parse_options, read_bandwidth, report, seconds
from PIL import Image

from olmo.generation.prompt_lookup import LookupStep
from olmo.models.bundled import bundled_model_folder
from olmo.models.compiled_decoding import CompiledDecoding
from olmo.models.feature_cache import FeatureCache
from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.molmo.molmo import Molmo
from olmo.models.prefix_cache import PrefixCache

PICTURE = Path(__file__).resolve().parents[1] / "examples" / "pictures" / "scene.png"
POINTING, COUNTING = "Point to the trees.", "How many trees are there?"
CHAT = ("What things are there?", "Point to the trees.", COUNTING)
N_GUESSES = 8

Inputs = dict[str, Any]


class Bench:
    """The model, its inputs, and the tokens of plain answers."""

    def __init__(self) -> None:
        self.model = Molmo.from_pretrained(bundled_model_folder())
        self.preprocess = self.model.config.build_preprocessor(for_inference=True)
        self.picture = Image.open(PICTURE)

    def inputs(self, *messages: str) -> Inputs:
        """Questions and answers in turn, of which the last is a question."""
        roles = ("user", "assistant")
        turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
        return dict(self.preprocess({"image": self.picture, "messages": turns}))

    def answer(self, inputs: Inputs, **options: Any) -> list[int]:
        """Tokens of the answer."""
        return list(self.model.generate(**inputs, **options).token_ids[0].tolist())

    def chat(self) -> list[Inputs]:
        """The turns of a chat, with the answers of the model."""
        said: list[str] = []
        turns = []
        for question in CHAT:
            said.append(question)
            turns.append(self.inputs(*said))
            said.append(self.model.generate(**turns[-1]).text[0])
        return turns

    def with_features(self, inputs: Inputs, action: Callable[[], Any]) -> float:
        """Seconds of an action with the features of a picture at hand."""
        self.model.feature_cache = FeatureCache()
        self.answer(inputs, max_new_tokens=1)
        try:
            return seconds(action)
        finally:
            self.model.feature_cache = None

    def with_prefix(self, first: Inputs, action: Callable[[], Any]) -> float:
        """Seconds of an action with an earlier prompt at hand."""
        self.model.prefix_cache = PrefixCache()
        self.answer(first, max_new_tokens=1)
        try:
            return seconds(action)
        finally:
            self.model.prefix_cache = None

    def with_compiled(self, decoding: CompiledDecoding, measure: Callable[[], float]) -> float:
        """What is measured with compiled steps."""
        self.model.compiled_decoding = decoding
        try:
            return measure()
        finally:
            self.model.compiled_decoding = None


def compiled_row(bench: Bench, n_runs: int, bandwidth: float) -> Row:
    """A longer answer with compiled steps."""
    inputs, decoding = bench.inputs(POINTING), CompiledDecoding()
    plain, found = bench.answer(inputs), list[list[int]]()
    compiling_s = bench.with_compiled(decoding, lambda: seconds(lambda: found.append(bench.answer(inputs))))
    if found != [plain]:
        raise SystemExit("compiled steps change the answer")
    if decoding.failure is not None:
        raise SystemExit(f"the step was not compiled: {decoding.failure}")
    act = lambda: bench.answer(inputs)  # noqa: E731
    figures = interleave(
        {"ours": lambda: bench.with_compiled(decoding, lambda: seconds(act)), "peer": lambda: seconds(act)}, n_runs
    )
    reading_s = statistics.median(seconds(lambda: bench.answer(inputs, max_new_tokens=1)) for _ in range(n_runs))
    n_bytes = sum(parameter.nbytes for parameter in bench.model.llm.parameters())
    limit_s = reading_s + (len(plain) - 1) * n_bytes / bandwidth
    facts = {
        "tokens": len(plain),
        "compiling_s": compiling_s,
        "weight_bytes": n_bytes,
        "bandwidth": bandwidth,
        "device": "cpu",
    }
    return row("compiled steps, new points", figures, limit_s / statistics.median(figures["peer"]), facts)


def compiled_prompt_row(bench: Bench, n_runs: int) -> Row:
    """The first token about a picture whose features are at hand: a prompt and nothing else."""
    inputs, decoding = bench.inputs(POINTING), CompiledDecoding(prompts=True)
    act = lambda: bench.answer(inputs, max_new_tokens=1)  # noqa: E731
    plain, found = act(), list[list[int]]()
    compiling_s = bench.with_compiled(decoding, lambda: seconds(lambda: found.append(act())))
    if found != [plain]:
        raise SystemExit("a compiled prompt changes the answer")
    if decoding.failure is not None or not decoding.n_prompts:
        raise SystemExit(f"the prompt was not compiled: {decoding.failure}")
    read = lambda: bench.with_features(inputs, act)  # noqa: E731
    figures = interleave({"ours": lambda: bench.with_compiled(decoding, read), "peer": read}, n_runs)
    config, side = bench.model.config, bench.model.config.vision_backbone.vit.spec.image_size
    n_text = inputs["input_ids"].shape[-1] - config.image_spec.tokens_per_crop
    n_flops, peak = prompt_cost(config, side, side, n_text_tokens=n_text).flops.llm, matmul_peak()
    facts = {"prompt_tokens": inputs["input_ids"].shape[-1], "compiling_s": compiling_s, "flops": n_flops, "peak": peak}
    return row("compiled prompt, the first token", figures, n_flops / peak / statistics.median(figures["peer"]), facts)


def passes_left(bench: Bench, inputs: Inputs) -> float:
    """Passes of the model with guesses over those without."""
    found: list[LookupStep] = []
    make = LookupStep.__init__

    def counting(step: LookupStep, *arguments: Any) -> None:
        make(step, *arguments)
        found.append(step)

    LookupStep.__init__ = counting  # type: ignore[method-assign]
    try:
        bench.answer(inputs, prompt_lookup=N_GUESSES)
    finally:
        LookupStep.__init__ = make  # type: ignore[method-assign]
    return found[0].n_passes / found[0].n_tokens


def row(case: str, figures: dict[str, list[float]], limit_share: float, more: dict[str, Any]) -> Row:
    """One case; the limit is a share of the peer's time."""
    peer = statistics.median(figures["peer"])
    return Row(
        case=case,
        ours=statistics.median(figures["ours"]),
        peer=peer,
        limit=peer * limit_share,
        is_higher_better=False,
        extra={"paired_ratio": paired_ratio(figures["peer"], figures["ours"]), **more},
    )


def main() -> dict[str, Any]:
    """Measure and report."""
    options = parse_options((__doc__ or "").splitlines()[0])
    machine, bandwidth, bench = hardware(), read_bandwidth(), Bench()
    n_runs = 5 if options.quick else 31
    rows = []

    counting = bench.inputs(COUNTING)
    plain = bench.answer(counting)
    bench.model.feature_cache = FeatureCache()
    for _ in range(2):
        if bench.answer(counting) != plain:
            raise SystemExit("kept features change the answer")
    bench.model.feature_cache = None
    config, side = bench.model.config, bench.model.config.vision_backbone.vit.spec.image_size
    cost = prompt_cost(config, side, side, n_text_tokens=12)
    act = lambda: bench.answer(counting)  # noqa: E731
    figures = interleave({"ours": lambda: bench.with_features(counting, act), "peer": lambda: seconds(act)}, n_runs)
    rows.append(row("kept features, a short answer", figures, 1 - cost.flops.vit / cost.total, {"tokens": len(plain)}))

    turns = bench.chat()
    plain = bench.answer(turns[-1])
    bench.model.prefix_cache = PrefixCache()
    bench.answer(turns[-2])
    if bench.answer(turns[-1]) != plain:
        raise SystemExit("a kept beginning changes the answer")
    n_known, n_all = bench.model.prefix_cache.n_reused, turns[-1]["input_ids"].shape[-1]
    bench.model.prefix_cache = None
    act = lambda: bench.answer(turns[-1])  # noqa: E731
    figures = interleave({"ours": lambda: bench.with_prefix(turns[-2], act), "peer": lambda: seconds(act)}, n_runs)
    facts = {"prompt_tokens": n_all, "known_tokens": n_known, "tokens": len(plain)}
    rows.append(row("kept beginning, third turn of a chat", figures, 1 - n_known / n_all, facts))

    said = bench.model.generate(**bench.inputs(POINTING)).text[0]
    cases = {"new points": bench.inputs(POINTING), "points said before": bench.inputs(POINTING, said, POINTING)}
    for title, inputs in cases.items():
        plain = bench.answer(inputs)
        if bench.answer(inputs, prompt_lookup=N_GUESSES) != plain:
            raise SystemExit("guessing changes the answer")
        share = passes_left(bench, inputs)
        sides = {
            "ours": lambda inputs=inputs: seconds(lambda: bench.answer(inputs, prompt_lookup=N_GUESSES)),
            "peer": lambda inputs=inputs: seconds(lambda: bench.answer(inputs)),
        }
        facts = {"tokens": len(plain), "guesses": N_GUESSES, "passes_left": share}
        rows.append(row(f"guessing, {title}", interleave(sides, n_runs), share, facts))
    rows.append(compiled_row(bench, n_runs, bandwidth))
    rows.append(compiled_prompt_row(bench, n_runs))

    notes = {"model": "molmo-nano", "dtype": "float32", "peer_is": "generate without the option"}
    return report("decode_options", "s", rows, options=options, machine=machine, notes=notes)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

"""Tokens a second of cached decoding with quantised matrices, against our own float32 at the same shape and weights.

The shape is that of SmolLM2-135M. Embeddings and the tied head stay in float32, as by default. `limit` is what the
measured read bandwidth allows for the bytes that one step must read. The tokens of the two differ: random weights have
no clear favourite, so quality is measured elsewhere (`molmo quantize`).

    python benchmarks/quantized_decode.py --save
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from decode import BATCH_SIZES, PROMPT_LENGTH, decode
from harness import Row, hardware, interleave, paired_ratio, parse_options, read_bandwidth, report
from llm_pair import SMOLLM2_135M, Decoder

from olmo.models.generate import prefill
from olmo.models.molmo.base_llm import llm_config_from_hf
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.text_inputs import text_inputs
from olmo.quantization.layers import module_bytes, pack_layers

SCHEMES = ("int8", "int8-dynamic", "int4")
PROMISE = 1.3
"""What int8 is to gain over float32 at batch 1."""

PROMISED = "int8, batch 1"


def build_models(shape: dict[str, Any]) -> dict[str, Molmo]:
    """The same random weights in float32 and in every scheme, by its name."""
    config = MolmoConfig(llm=llm_config_from_hf({**shape, "model_type": "qwen2"}), vision_backbone=None)
    models = {"float32": Molmo(config).eval()}
    for scheme in SCHEMES:
        models[scheme] = Molmo(config).quantize(scheme)
    return models


def bytes_read(model: Molmo) -> int:
    """Bytes of weights that one step must read: all but the embedding rows that are merely looked up."""
    llm = model.llm
    unused = 0 if llm.wte.new_embedding is None else llm.wte.new_embedding.nbytes
    total = module_bytes(model) - unused - (0 if llm.lm_head is None else llm.wte.embedding.nbytes)
    pack_layers(model)  # which counting undid
    return total


def start(model: Molmo, prompt: torch.Tensor, n_new: int) -> Decoder:
    """Read `prompt` `[B, L]`; room for `n_new` tokens."""
    step, logits = prefill(model, text_inputs(prompt, model.config.llm), n_new)
    return Decoder(step, logits)


def measure(models: dict[str, Molmo], batch_size: int, options: Any, bandwidth: float) -> list[Row]:
    """All schemes at one batch size, in turn with float32."""
    length, n_steps, n_runs = (32, 8, 3) if options.quick else (PROMPT_LENGTH, 64, 5)
    vocabulary = models["float32"].config.llm.vocab_size
    prompt = torch.randint(0, vocabulary, (batch_size, length), generator=torch.Generator().manual_seed(1))

    def one_run(name: str) -> float:
        return decode(lambda: start(models[name], prompt, n_steps + 1), n_steps, [])

    figures = interleave({name: lambda name=name: one_run(name) for name in models}, n_runs)
    limits = {name: batch_size * bandwidth / bytes_read(model) for name, model in models.items()}
    plain = statistics.median(figures["float32"])
    rows = []
    for name in SCHEMES:
        ours = statistics.median(figures[name])
        extra = {
            "paired_ratio": paired_ratio(figures[name], figures["float32"]),
            "share_of_bandwidth": ours / limits[name],
            "float32_share_of_bandwidth": plain / limits["float32"],
            "runs": {name: figures[name], "float32": figures["float32"]},
        }
        rows.append(Row(case=f"{name}, batch {batch_size}", ours=ours, peer=plain, limit=limits[name], extra=extra))
    return rows


def run(options: Any, shape: dict[str, Any]) -> dict[str, Any]:
    """Measure and report."""
    machine, bandwidth = hardware(), read_bandwidth()
    with torch.inference_mode():
        models = build_models(shape)
        rows = [row for size in BATCH_SIZES for row in measure(models, size, options, bandwidth)]
    ratio = next(row.extra["paired_ratio"] for row in rows if row.case == PROMISED and row.extra)
    return report(
        "quantized_decode",
        "tokens/s",
        rows,
        options=options,
        machine=machine,
        notes={
            "peer": "the same model in float32",
            "limit_is": f"weights of one step over the measured read bandwidth of {bandwidth / 1e9:.1f} GB/s",
            "promise": PROMISE,
            "promise_is_kept": ratio >= PROMISE,
            "bytes_read": {name: bytes_read(model) for name, model in models.items()},
        },
    )


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]), SMOLLM2_135M)

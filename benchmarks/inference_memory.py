"""Memory that answering takes: the estimate of `molmo info --tokens` over what a process really takes; 1 is exact.

Each model answers in a process of its own. Counted is its resident memory at the peak, weights included, over what it
held after its imports and a first small pass. `ours` is estimate over measured; the promise is at most 5 % off. Linux
only.

    python benchmarks/inference_memory.py --save
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, Row, hardware, parse_options, report

from olmo.models.auto import MODELS
from olmo.models.generate import prefill
from olmo.models.inference_memory import Prompts, inference_memory
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.text_inputs import text_inputs

LLM = {"d_model": 768, "n_heads": 12, "n_kv_heads": 4, "mlp_hidden_size": 2048, "vocab_size": 32_000}
VISION = {"vit_layers": [-2], "vit": {"n_layers": 6, "d_model": 512, "n_heads": 8, "mlp_hidden_size": 2048}}
ROUTED = {"block_type": "olmoe", "n_experts": 16, "experts_per_token": 4, "mlp_hidden_size": 512}
PROMISE = 0.05

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Prompts]] = {
    "Molmo, 13 crops": ("molmo", {}, {}, Prompts(1, 2000, 13, 16)),
    "Molmo, 8 rows of text": ("molmo", {}, {}, Prompts(8, 900, 0, 64)),
    "MolmoE, 4 crops": ("molmo", ROUTED, {}, Prompts(2, 1000, 4, 16)),
    "VideoOlmo, 24 frames": ("video_olmo", {}, {"frame_batch_size": 4}, Prompts(1, 3600, 24, 16)),
    "HeMolmo at 0.25": ("he_molmo", {}, {"selection_ratio": 0.25, "frame_batch_size": 4}, Prompts(1, 3600, 24, 16)),
}
"""By name: model, changes of its language model, further fields, prompts."""


def config_of(case: str, n_layers: int) -> MolmoConfig:
    """The model of a case."""
    name, llm, others, _ = CASES[case]
    llm = {**LLM, "n_layers": n_layers, "max_sequence_length": 4096, **llm}
    return MODELS[name].config_class.new(llm=llm, vision_backbone=VISION, **others)


def held(name: str) -> int:
    """Bytes of resident memory, now (`VmRSS`) or at the peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(case: str, n_layers: int) -> None:
    """In a process of its own: answer, and print the bytes that it took."""
    config, prompts = config_of(case, n_layers), CASES[case][3]
    cls, small = MODELS[config.model_name], config.replace(llm=config.llm.replace(n_layers=1))
    with torch.inference_mode():
        answer(cls(small).eval(), Prompts(1, 8, 1 if prompts.n_crops else 0))  # what a first pass sets up
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = held("VmRSS")
        answer(cls(config).eval(), prompts)
    print(json.dumps({"peak": held("VmHWM") - before}))


def answer(model: Any, prompts: Prompts) -> None:
    """The pass over random prompts, into a cache with room for the answer."""
    config, rng = model.config, torch.Generator().manual_seed(0)
    ids = torch.randint(0, 900, (prompts.batch_size, prompts.n_tokens), generator=rng)
    pictures: dict[str, Any] = {}
    if prompts.n_crops:
        spec, vit = config.image_spec, config.vision_backbone.vit.spec
        n = min(spec.tokens_per_crop, (prompts.n_tokens - 1) // prompts.n_crops)
        index = torch.full((prompts.n_crops, spec.tokens_per_crop), -1)
        index[:, :n] = torch.arange(prompts.n_crops * n).view(prompts.n_crops, n)
        ids[:, : prompts.n_crops * n] = config.image_token_ids.patch
        shape = (prompts.batch_size, prompts.n_crops)
        pictures = {
            "images": torch.rand(*shape, 3, vit.image_size, vit.image_size, generator=rng),
            "image_masks": torch.ones(*shape, vit.n_patches),
            "image_input_idx": index.expand(*shape, -1),
        }
    prefill(model, text_inputs(ids, config.llm), prompts.n_new_tokens, **pictures)


def run(options: Any) -> dict[str, Any]:
    """Estimate and measure each case."""
    n_layers, rows, machine = (4 if options.quick else 16), [], hardware()
    for case in list(CASES)[:: 2 if options.quick else 1]:
        command = [sys.executable, str(Path(__file__).resolve()), case, str(n_layers), str(options.threads)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case} failed:\n{done.stderr[-2000:]}")
        peak = int(json.loads(done.stdout.splitlines()[-1])["peak"])
        config, prompts = config_of(case, n_layers), CASES[case][3]
        found = inference_memory(config, MODELS[config.model_name], prompts)["fp32"]
        extra = {**asdict(found), "total_bytes": found.total_bytes, "measured_bytes": peak, **asdict(prompts)}
        rows.append(Row(case=case, ours=found.total_bytes / peak, limit=1.0, extra=extra))
    notes = {"promise": f"at most {PROMISE:.0%} off"}
    result = report("inference_memory", "estimate over measured", rows, options=options, machine=machine, notes=notes)
    if max(abs(row.ours - 1) for row in rows) > PROMISE:
        raise SystemExit(f"an estimate was more than {PROMISE:.0%} off")
    return result


if __name__ == "__main__":
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("this benchmark reads /proc/self/clear_refs, which only Linux has")
    if len(sys.argv) == 4 and sys.argv[1] in CASES:
        torch.set_num_threads(int(sys.argv[3]))
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        run(parse_options(__doc__.splitlines()[0]))

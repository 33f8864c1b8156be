"""Tokens a second of one training step, against a plain loop around transformers' parts: same shapes, same batch.

Molmo-nano in float32 on the CPU. On a machine with a GPU also the 7B and the MolmoE shape, with fewer layers, in
bfloat16 over float32 weights. Both sides must begin with the same loss. A second figure is the share of the time of a
step that the trainer waits for data.

    python benchmarks/train_step.py --save
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, Row, hardware, interleave, matmul_peak, paired_ratio, parse_options, report, seconds
from train_pair import OurSide, PlainMolmo, PlainSide, recipe, share_weights

from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.presets import preset
from olmo.preprocessing.image_tokens import image_token_layout
from olmo.preprocessing.multicrop import select_tiling
from olmo.train.parallel.processes import init_parallel
from olmo.train.run import build_trainer
from olmo.train.watch.throughput import peak_flops_per_s

NANO = ROOT / "configs" / "molmo-nano" / "config.yaml"
CPU_CASES = {"one question a picture": 1, "8 questions a picture": 8}
GPU_CASES = {"7B shape, 4 of 28 layers": ("molmo-7b-d", 4), "MolmoE shape, 4 of 16 layers": ("molmoe-1b", 4)}
BATCH_SIZE = 8
TOLERANCE = 1e-4  # of the first loss, relative; in bfloat16 not asked for
MOST_WAITING = 0.05


def scenes_batch(config: MolmoConfig, n_questions: int, batch_size: int) -> dict[str, torch.Tensor]:
    """Scenes with questions as the trainer would collate them."""
    data = ScenesDataset(ScenesConfig(questions_per_scene=n_questions), split="train", size=batch_size)
    preprocess = config.build_preprocessor(for_inference=False)
    examples = [preprocess(data[i], rng=np.random.default_rng([0, i])) for i in range(batch_size)]
    return config.build_collator(include_metadata=False)(examples)


def made_up_batch(config: MolmoConfig, batch_size: int, n_text: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Noise pictures of full detail, each with `n_text` tokens of which half are learned; needs no tokenizer."""
    spec, ids = config.image_spec, config.image_token_ids
    assert spec is not None, "the presets have a vision backbone"
    tiling = select_tiling(10_000, 10_000, spec.image_size, config.mm_preprocessor.max_crops)
    picture, index = image_token_layout(tiling, spec, config.mm_preprocessor, ids)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, config.llm.vocab_size, (batch_size, n_text), generator=generator)
    ahead = torch.from_numpy(picture).expand(batch_size, -1)
    input_ids = torch.cat((text[:, :1], ahead, text[:, 1:]), 1)
    labels = torch.full_like(input_ids, -100)
    labels[:, -(n_text // 2) :] = input_ids[:, -(n_text // 2) :]
    n_crops, side = len(index), spec.image_size
    batch = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "loss_masks": (labels >= 0).float(),
        "images": torch.randn(batch_size, n_crops, 3, side, side, generator=generator),
        "image_masks": torch.ones(batch_size, n_crops, spec.n_patches),
        "image_input_idx": torch.from_numpy(np.where(index >= 0, index + 1, index)).expand(batch_size, -1, -1),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def measure(
    case: str, model: Molmo, batch: dict[str, torch.Tensor], n_runs: int, peak: float | None, precision: str = "fp32"
) -> Row:
    """Both sides in turn on one batch."""
    device = batch["input_ids"].device
    settings, parallel = recipe(precision), init_parallel(device=device)
    plain = PlainMolmo(model)
    can_share = model.config.llm.block_type.value == "sequential"
    if can_share:
        share_weights(plain, model)
    ours = OurSide(model.to(device).train(), settings, parallel)
    theirs = PlainSide(plain.to(device), settings, device)
    first = ours.step(batch)
    first_of_peer = theirs.step(batch)  # the first steps also reserve memory and moments; not counted
    difference = abs(first.loss - first_of_peer) / abs(first_of_peer)
    if can_share and precision == "fp32" and difference > TOLERANCE:
        raise SystemExit(f"{case}: losses {first.loss} and {first_of_peer} differ: this is not the same work")
    n_tokens, flops = first.counts["n_tokens"], first.counts["flops"]
    sides = {"ours": timed(lambda: ours.step(batch), device), "peer": timed(lambda: theirs.step(batch), device)}
    times = interleave(sides, n_runs)
    median = {side: statistics.median(values) for side, values in times.items()}
    return Row(
        case=f"{case}, batch {len(batch['input_ids'])}",
        ours=n_tokens / median["ours"],
        peer=n_tokens / median["peer"],
        limit=None if peak is None else n_tokens * peak / flops,
        extra={
            "paired_ratio": paired_ratio(times["peer"], times["ours"]),
            "mfu": None if peak is None else flops / median["ours"] / peak,
            "mfu_peer": None if peak is None else flops / median["peer"] / peak,
            "tokens": n_tokens,
            "flops": flops,
            "loss": first.loss,
            "loss_difference": difference if can_share else None,
            "seconds": times,
        },
    )


def timed(action: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Seconds of one call, with what it left running on a GPU."""

    def run() -> float:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return lambda: seconds(run)


def cpu_rows(n_runs: int, peak: float, batch_size: int, overrides: Sequence[str] = ()) -> list[Row]:
    """Molmo-nano, without the norm of queries and keys, which no dense model of transformers has in this place."""
    config = MolmoConfig.load(NANO, ["llm.qk_norm=false", *overrides])
    return [
        measure(case, Molmo(config, seed=0), scenes_batch(config, n, batch_size), n_runs, peak)
        for case, n in CPU_CASES.items()
    ]


def gpu_rows(n_runs: int) -> list[Row]:
    """Two large shapes with fewer layers, so that both sides fit one GPU with their moments."""
    device, rows = torch.device("cuda", 0), []
    peak = peak_flops_per_s(str(device), "bfloat16")
    for case, (name, n_layers) in GPU_CASES.items():
        config = preset(name)
        config = config.replace(llm=config.llm.replace(n_layers=n_layers, residual_dropout=0.0))
        batch = made_up_batch(config, batch_size=4, n_text=512, device=device)
        rows.append(measure(case, Molmo(config, seed=0), batch, n_runs, peak, "amp_bf16"))
        torch.cuda.empty_cache()
    return rows


def waiting(n_steps: int, n_workers: int, batch_size: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Share of the time of a step that the trainer waits for scenes to be drawn and cut into crops."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        source = {"kind": "scenes", "scenes": {"questions_per_scene": 8}}
        settings = {
            "model": str(NANO.parent), "model_overrides": list(overrides), "run_dir": f"{folder}/run",
            "data": {"sources": [source]}, "max_steps": n_steps + 2, "batch_size": batch_size,
            "n_workers": n_workers, "watch": {"console": "none"},
        }  # fmt: skip
        path.write_text(json.dumps(settings), encoding="utf-8")
        trainer = build_trainer(path)
        trainer.start()
        waited, start = 0.0, 0.0
        for done, batch in enumerate(trainer.batches()):
            if done == 2:  # the workers have started and filled their queues
                start = time.perf_counter() - batch.wait_s
            waited += batch.wait_s if done >= 2 else 0.0
            trainer.train_step(batch)
        total = time.perf_counter() - start
        trainer.close()
    return {"share": waited / total, "limit": MOST_WAITING, "workers": n_workers, "steps": n_steps, "seconds": total}


def run(options: Any, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure and report; `overrides` change the shape of nano."""
    n_runs, n_steps = (3, 4) if options.quick else (9, 20)
    machine, peak = hardware(), matmul_peak()
    rows = cpu_rows(n_runs, peak, options.batch_size, overrides)
    if torch.cuda.is_available():
        rows += gpu_rows(n_runs)
    waited = waiting(n_steps, options.workers, options.batch_size, overrides)
    return report(
        "train_step",
        "tokens/s",
        rows,
        options=options,
        packages=("transformers",),
        machine=machine,
        notes={
            "peer": "transformers' encoder and language model, our connector, cross-entropy, autograd, fused AdamW",
            "limit_is": f"operations of the step over the peak (CPU: measured matmul, {peak / 1e9:.0f} GFLOP/s)",
            "waiting_for_data": waited,
        },
    )


def _more_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="pictures a step on the CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare data")


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0], _more_options))

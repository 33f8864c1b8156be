"""Everything that wants a large GPU, within ten minutes and without a download: each figure beside its limit and goal.

Weights are random, in bfloat16. What bounds a figure is measured first: the bandwidth of the memory and the rate of a
square matrix product. Parts run one after another; one that no time is left for is named and left out. Each figure is
printed as a line of JSON when it is there, so nothing is lost where the run is cut off. Goals:

    7B, decoding at batch 1             70 % of the bandwidth          int8, int4 1.4 and 1.8 times bfloat16
    7B, prompt of 13 crops              50 % of the matrix product
    MolmoE-1B, decoding at batch 1      2 times the dense 7B
    training step                       40 % of the peak; MolmoE 20 %  (`train_step.py`)
    HeMolmo at a ratio of 0.25          2 times to the first token     (`he_molmo.py`)

    python benchmarks/gpu_suite.py --save
    python benchmarks/gpu_suite.py --tiny --device cpu    the same at toy size, to see that it runs
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import he_molmo
import torch
import train_step
from harness import Row, hardware, matmul_peak, parse_options, read_bandwidth, report
from he_molmo_pair import HePair, Prompts, answer_seconds
from model_table import read_numbers

from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import preset

BUDGET_S = 600.0
BANDWIDTH_GOAL, PREFILL_GOAL, ROUTED_GOAL = 0.7, 0.5, 2.0
NARROW_GOALS = {"int8": 1.4, "int4": 1.8}
MFU_GOALS = {"7B": 0.4, "MolmoE": 0.2}
N_TEXT = 128
"""Tokens of the prompt that decoding is timed after."""

TINY_ROUTED: dict[str, Any] = {
    "d_model": 128, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 64, "vocab_size": 832, "block_type": "olmoe",
    "n_experts": 8, "experts_per_token": 2, "qk_norm": True, "max_sequence_length": 1024,
}  # fmt: skip


@dataclass
class Machine:
    """Where it runs, and what bounds it.

    Attributes:
        device: `cuda` or `cpu`.
        is_tiny: toy shapes.
        n_runs: runs whose median is taken.
        n_new: tokens that are decoded.
        bandwidth: bytes a second that are read from memory.
        peak: operations a second of a bfloat16 matrix product; float32 on a CPU.
    """

    device: str
    is_tiny: bool
    n_runs: int
    n_new: int
    bandwidth: float = 0.0
    peak: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def measure(self) -> None:
        """Find the bounds."""
        n_bytes, side = (2**24, 256) if self.is_tiny else (2**32, 8192)
        self.bandwidth = read_bandwidth(n_bytes, self.device)
        self.peak = matmul_peak(side, self.device, self.dtype)


def inference(machine: Machine) -> Iterator[Row]:
    """Reading a prompt and decoding with the dense 7B, then decoding with narrow matrices and with MolmoE."""
    config = he_config(machine)
    pair = HePair(config, device=machine.device, dtype=machine.dtype, frame_batch_size=13)
    prompts, flops = pair.prompts(1), pair.cost(None).total
    del pair.chosen, pair.by_crops
    times = [answer_seconds(pair.plain, prompts, [1])[0] for _ in range(machine.n_runs + 1)][1:]
    rate, limit = flops / statistics.median(times), machine.peak
    yield row("7B, prompt of 13 crops, TFLOP/s", rate / 1e12, limit / 1e12, PREFILL_GOAL * limit / 1e12, times)
    plain = decoding("7B", pair.plain, machine, BANDWIDTH_GOAL)
    yield plain
    for scheme, goal in NARROW_GOALS.items():
        try:
            model = copy.deepcopy(pair.plain).quantize(scheme)
        except OLMoConfigurationError as error:  # torchao is not there, or not for this device
            print(f"{scheme}: not measured: {error}", flush=True)
            continue
        yield beside(plain, decoding(f"7B in {scheme}", model, machine, None), goal)
        del model
        release()
    del pair
    release()
    with torch.device(machine.device):
        routed = Molmo(routed_config(machine)).to(machine.dtype).eval()
    yield beside(plain, decoding("MolmoE-1B", routed, machine, None), ROUTED_GOAL)


def training(machine: Machine) -> Iterator[Row]:
    """One step of both shapes against transformers' parts."""
    if machine.device == "cpu":
        return
    for found in train_step.gpu_rows(machine.n_runs):
        goal = next(goal for name, goal in MFU_GOALS.items() if found.case.startswith(name))
        mfu = (found.extra or {})["mfu"]
        facts = {**(found.extra or {}), "goal": goal, "met": None if mfu is None else mfu >= goal}
        yield replace(found, case=f"training, {found.case}, tokens/s", extra=facts)


def selecting(machine: Machine) -> Iterator[Row]:
    """A HeMolmo against the Molmo with its weights."""
    if machine.device == "cpu":
        return
    rows, memory = he_molmo.on_gpu(machine.n_runs)
    print(json.dumps({"memory of HeMolmo": memory}), flush=True)
    for found in rows:
        goal = (found.extra or {})["goal"]
        met = None if goal is None or found.ratio is None else found.ratio >= goal
        yield replace(found, extra={**(found.extra or {}), "met": met})


PARTS: dict[str, Callable[[Machine], Iterator[Row]]] = {
    "inference": inference,
    "training": training,
    "selecting": selecting,
}


def decoding(name: str, model: ModelBase, machine: Machine, goal: float | None) -> Row:
    """Tokens a second after a prompt of text, by the compiled step on a GPU; `goal`: share of the bandwidth."""
    if machine.device != "cpu":
        model.compile_decoding()
    marks, prompts = [1, machine.n_new], text_prompt(model.config, machine)
    times = [answer_seconds(model, prompts, marks) for _ in range(machine.n_runs + 1)][1:]  # the first compiles
    rates = [(machine.n_new - 1) / (last - first) for first, last in times]
    limit = machine.bandwidth / (read_numbers(model.config) * machine.dtype.itemsize)
    return row(f"{name}, decoding, tokens/s", statistics.median(rates), limit, goal and goal * limit, rates)


def row(case: str, ours: float, limit: float, goal: float | None, runs: list[float]) -> Row:
    """One figure, with whether it meets its goal."""
    met = None if goal is None else ours >= goal
    return Row(case=case, ours=ours, limit=limit, extra={"goal": goal, "met": met, "runs": runs})


def beside(peer: Row, found: Row, goal: float) -> Row:
    """A figure beside another, of which it is to be `goal` times as much."""
    facts = {**(found.extra or {}), "goal": goal * peer.ours, "met": found.ours >= goal * peer.ours}
    return replace(found, peer=peer.ours, extra=facts)


def he_config(machine: Machine) -> HeMolmoConfig:
    """The 7B, as a HeMolmo."""
    config = HePair().config if machine.is_tiny else preset("hemolmo-7b")
    assert isinstance(config, HeMolmoConfig), "it is one"
    return config


def routed_config(machine: Machine) -> MolmoConfig:
    """MolmoE, which reads text alone; decoding takes no more."""
    llm = TINY_ROUTED if machine.is_tiny else preset("molmoe-1b").llm
    return MolmoConfig.new(llm=llm, vision_backbone=None)


def text_prompt(config: MolmoConfig, machine: Machine) -> Prompts:
    """One row of random text."""
    ids = torch.randint(0, config.llm.vocab_size, (1, N_TEXT), generator=torch.Generator().manual_seed(0))
    return Prompts(ids.to(machine.device), {})


def release() -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def told(name: str, deadline: float) -> Iterator[None]:
    """Say what is run, how long it took, and what time is left."""
    start = time.perf_counter()
    yield
    took, left = time.perf_counter() - start, deadline - time.perf_counter()
    print(f"{name}: {took:.0f} s, {left:.0f} s left", flush=True)
    release()


def run(options: Any) -> dict[str, Any]:
    """Run all parts that time is left for, and report."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here; --tiny --device cpu runs the suite at toy size")
    if options.device == "cpu" and not options.tiny:
        raise SystemExit("the shapes of 7B models are for a GPU; add --tiny to run the suite on a CPU")
    facts, deadline = hardware(), time.perf_counter() + options.budget
    print(f"at most {options.budget:.0f} s", flush=True)
    machine = Machine(options.device, options.tiny, *((1, 8) if options.quick or options.tiny else (3, 128)))
    machine.measure()
    print(f"{machine.bandwidth / 1e9:.4g} GB/s, {machine.peak / 1e12:.4g} TFLOP/s", flush=True)
    rows: list[Row] = []
    left_out: list[str] = []
    for name, part in PARTS.items():
        if time.perf_counter() > deadline:
            left_out.append(name)
            continue
        with torch.inference_mode(name != "training"), told(name, deadline):
            for found in part(machine):
                rows.append(found)
                print(json.dumps(found.as_dict()), flush=True)
    return report(
        "gpu_suite_tiny" if options.tiny else "gpu_suite",
        "as told in each case",
        rows,
        options=options,
        machine={**facts, "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"},
        notes={
            "bandwidth": machine.bandwidth,
            "matmul_peak": machine.peak,
            "left_out_for_want_of_time": left_out,
            "missed": [r.case for r in rows if (r.extra or {}).get("met") is False],
        },
    )


def _more_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where to run")
    parser.add_argument("--tiny", action="store_true", help="toy shapes")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds after which no part begins")


if __name__ == "__main__":
    run(parse_options((__doc__ or "").splitlines()[0], _more_options))

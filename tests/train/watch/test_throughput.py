from __future__ import annotations

import math

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.train.watch.throughput import PEAK_TFLOPS, StepWindow, known_peak, peak_flops_per_s, peak_memory_gib


def test_rates_are_taken_over_the_time_of_all_steps_and_losses_are_means() -> None:
    window = StepWindow(peak_flops=100.0)
    window.add(
        {"loss": 1.0, "lr_llm": 1e-3, "step_s": 1.0, "wait_s": 0.0, "n_tokens": 10, "n_examples": 2, "flops": 60}
    )
    window.add(
        {"loss": 3.0, "lr_llm": 2e-3, "step_s": 3.0, "wait_s": 1.0, "n_tokens": 30, "n_examples": 2, "flops": 60}
    )
    assert window.close() == {
        "loss": 2.0,
        "lr_llm": 2e-3,
        "step_s": 2.0,
        "tokens_per_s": 10.0,
        "examples_per_s": 1.0,
        "wait_share": 0.25,
        "mfu": pytest.approx(0.3),
    }
    assert window.close() == {}, "a window begins anew"


def test_a_loss_of_some_steps_only_is_averaged_over_those() -> None:
    window = StepWindow()
    window.add({"loss": 1.0, "loss_chart_qa": 4.0})
    window.add({"loss": 2.0})
    assert window.close() == {"loss": 1.5, "loss_chart_qa": 4.0}


def test_a_loss_that_is_no_number_shows() -> None:
    window = StepWindow()
    window.add({"loss": 1.0})
    window.add({"loss": math.nan})
    assert math.isnan(window.close()["loss"])


def test_without_amounts_or_peak_there_are_no_rates() -> None:
    window = StepWindow()
    window.add({"loss": 1.0, "flops": 10.0})
    assert window.close() == {"loss": 1.0}
    with pytest.raises(OLMoConfigurationError, match="above 0"):
        StepWindow(peak_flops=0.0)


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA H100 PCIe", "float16", 756.0),
        ("NVIDIA H200", "float32", 66.9),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312.0),
        ("NVIDIA L40S", "bfloat16", 362.0),
        ("NVIDIA L4", "bfloat16", 121.0),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("AMD Instinct MI300X", "bfloat16", 1307.4),
    ],
)
def test_gpus_are_known_by_their_names(name: str, dtype: str, tflops: float) -> None:
    assert known_peak(name, dtype) == tflops * 1e12


def test_an_unknown_gpu_has_no_peak() -> None:
    assert known_peak("NVIDIA L400", "bfloat16") is None
    assert all(table[torch.bfloat16] > table[torch.float32] for table in PEAK_TFLOPS.values())


def test_a_given_peak_wins_and_a_cpu_is_measured() -> None:
    assert peak_flops_per_s("cuda:3", "bfloat16", peak_tflops=2.0) == 2e12
    peak = peak_flops_per_s("cpu")
    assert peak is not None and 1e8 < peak < 1e14
    assert peak_flops_per_s("cpu") == peak, "measured once"
    assert peak_flops_per_s("meta") is None


def test_memory_is_that_of_the_process() -> None:
    memory = peak_memory_gib("cpu")
    assert memory is None or 0.05 < memory < 1000

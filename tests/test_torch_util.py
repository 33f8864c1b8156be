from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.torch_util import bfloat16_slowdown, resolve_dtype


@pytest.mark.parametrize(
    ("given", "expected"),
    [("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), ("torch.float16", torch.float16), ("fp32", torch.float32),
     (torch.float64, torch.float64), (None, torch.float32), ("auto", None)],
)  # fmt: skip
def test_names_of_data_types(given, expected):
    assert resolve_dtype(given) is expected


@pytest.mark.parametrize("given", ["float", "int8", torch.int64, "", 16])
def test_other_names_list_the_choices(given):
    with pytest.raises(OLMoConfigurationError, match="'bfloat16'"):
        resolve_dtype(given)


def test_the_slowdown_of_bfloat16_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    times = {torch.float32: 1.0, torch.bfloat16: 7.0}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def product(a: torch.Tensor, _: torch.Tensor) -> None:
        now[0] += times[a.dtype]

    monkeypatch.setattr(torch, "mm", product)
    assert bfloat16_slowdown() == 7.0

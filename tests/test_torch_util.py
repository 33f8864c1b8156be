from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.torch_util import resolve_dtype


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

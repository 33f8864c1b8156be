"""Small facts about torch that several rooms need: data types by name."""

from __future__ import annotations

import torch

from olmo.exceptions import OLMoConfigurationError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""Names accepted for the data type of weights."""


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The data type that a name means.

    Args:
        dtype: a floating `torch.dtype`, one of the names in `DTYPES` (also as `torch.bfloat16`), "auto" or None.

    Returns:
        The data type; float32 for None; None for "auto", which means: the one the weights were saved in.

    Raises:
        OLMoConfigurationError: another name, or a type that is not floating point.
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str) and dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in DTYPES:
        return DTYPES[dtype.removeprefix("torch.")]
    raise OLMoConfigurationError(f"{dtype!r} is not one of 'auto', {', '.join(map(repr, DTYPES))}", "dtype")

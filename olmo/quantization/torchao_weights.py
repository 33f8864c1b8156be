"""Matrices of linear layers as tensors of the `torchao` library, whose products run on GPUs. Imported when used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.config import Scheme

_INT4_GROUP_SIZE = 128


def require_torchao(scheme: Scheme) -> None:
    """Refuse a scheme whose library is missing, before any weight is read.

    Raises:
        OLMoConfigurationError: `torchao` is missing or too old.
    """
    _settings(scheme)


def take_by_torchao(layer: nn.Linear, weight: Tensor, scheme: Scheme) -> None:
    """Give `layer` the matrix `weight` `[out, in]`, rounded by torchao, on the device of `weight`.

    Raises:
        OLMoConfigurationError: `torchao` is missing, or cannot keep this matrix so on this device.
    """
    from torchao.quantization import quantize_

    layer.weight = nn.Parameter(weight, requires_grad=False)
    try:
        quantize_(layer, _settings(scheme))
    except (AssertionError, ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        raise OLMoConfigurationError(
            f"torchao cannot keep a matrix of {list(weight.shape)} in {weight.dtype} on {weight.device} as {scheme} "
            f"({' '.join(str(error).split())}); load with dtype='bfloat16', keep this layer, or take another scheme"
        ) from error


def is_torchao(tensor: Tensor) -> bool:
    """Whether a tensor is one of torchao's, or any other with tensors inside."""
    return type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__")


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes, which for those of torchao is what its inner tensors take."""
    if not is_torchao(tensor):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    return sum(stored_bytes(getattr(tensor, name)) for name in names)


def _settings(scheme: Scheme) -> Any:
    try:
        from torchao import quantization
    except ImportError as error:
        raise OLMoConfigurationError(
            f"{scheme} on a GPU needs torchao 0.15 or newer ({error}); pip install 'molmo[quant]', or load the model "
            "on the CPU"
        ) from None
    if scheme is Scheme.int8:
        return quantization.Int8WeightOnlyConfig()
    if scheme is Scheme.int8_dynamic:
        return quantization.Int8DynamicActivationInt8WeightConfig()
    if scheme is Scheme.fp8:
        return quantization.Float8WeightOnlyConfig(weight_dtype=torch.float8_e4m3fn)
    # Of the packings this one needs no library beside torch.
    return quantization.Int4WeightOnlyConfig(group_size=_INT4_GROUP_SIZE, int4_packing_format="tile_packed_to_4d")

"""`QuantizationConfig`: in which numbers the matrices of a model are kept, and which of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


class Scheme(ConfigEnum):
    """Numbers of a matrix, and of what it is multiplied by."""

    int8 = "int8"
    int8_dynamic = "int8-dynamic"
    int4 = "int4"
    fp8 = "fp8"


class Kernels(ConfigEnum):
    """Whose products are used."""

    torch = "torch"
    torchao = "torchao"


@dataclass(kw_only=True)
class QuantizationConfig(BaseConfig):
    """How a model is quantised."""

    scheme: Scheme
    """`int8`: 8-bit weights; `int8-dynamic`: also 8-bit inputs, rounded as they come; `int4`: 4-bit weights; `fp8`:
    8-bit floating point weights."""

    kernels: Kernels = Kernels.torch
    """`torch`: our layers over the packed kernels of torch, for CPUs; `torchao`: tensors of that library, for GPUs."""

    keep: list[str] = field(default_factory=list)
    """Layers left in full precision: names as in the model, with `*`, or a name that theirs begin with."""

    include: list[str] = field(default_factory=list)
    """Layers quantised beside the blocks of the language model, written in the same way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme is Scheme.fp8 and self.kernels is Kernels.torch:
            raise OLMoConfigurationError(
                "fp8 needs a GPU and torchao; load the model with device='cuda', or use int8 on a CPU", "scheme"
            )

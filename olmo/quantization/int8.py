"""Linear layers with an 8-bit matrix: one scale a row, products by kernels that read the 8 bits.

Which kernels, and what they gain, was measured: see docs/quantization.md.

Source: Dettmers et al. 2022 (LLM.int8()), section 2.1, absmax quantisation by row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.quantization.narrow_linear import NarrowLinear, bfloat16_exact

_LARGEST = 127.0

# The weight-packed kernel reads past the end of rows that are no multiple of its vectors, without an error.
_KERNEL_WIDTH = 32

_SMALLEST_ROW = 1e-30  # a row of zeros stays one

# Without VNNI the processor adds products of two pairs in 16 bits, which 8-bit inputs would overflow.
_INPUT_STEPS = 127.0 if getattr(torch.cpu, "_is_vnni_supported", lambda: False)() else 63.0


class Int8Linear(NarrowLinear):
    """8-bit weights; inputs are rounded to bfloat16 for the product, which has float32 sums.

    A row of the result does not depend on the other rows, so batched answers are those of one alone.
    """

    def __init__(self, in_features: int, out_features: int, has_bias: bool = False) -> None:
        super().__init__(in_features, out_features, has_bias)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))

    def take(self, weight: Tensor, dtype: torch.dtype | None = None) -> None:
        """See `NarrowLinear.take`."""
        self.unpack()
        numbers = weight.float()
        steps = numbers.abs().amax(1).clamp(min=torch.finfo(torch.bfloat16).tiny) / _LARGEST  # [out]
        self.scale = bfloat16_exact(steps, dtype or weight.dtype)
        rounded = (numbers / self.scale.float()[:, None]).round_()
        self.weight = rounded.clamp_(-_LARGEST, _LARGEST).to(torch.int8)

    def widened(self) -> Tensor:
        """See `NarrowLinear.widened`."""
        self.unpack()
        return self.weight.float() * self.scale.float()[:, None]

    @property
    def has_kernel(self) -> bool:
        """Whether rows of the matrix are whole vectors."""
        return self.in_features % _KERNEL_WIDTH == 0

    def _pack(self, weight: Tensor) -> Tensor:
        return weight

    def _unpack(self, packed: Tensor) -> Tensor:
        return packed

    def _by_kernel(self, rows: Tensor, packed: Tensor) -> Tensor:
        dtype = torch.bfloat16 if rows.dtype is torch.float32 else rows.dtype
        return torch._weight_int8pack_mm(rows.to(dtype), packed, self.scale.to(dtype)).to(rows.dtype)


class Int8DynamicLinear(Int8Linear):
    """8-bit weights times 8-bit inputs, each row of which has a scale of its own; sums are whole numbers.

    Quicker than `Int8Linear`, above all for many rows, and a little less exact. Rows do not depend on one another here
    either. Where the kernel cannot be used, only the weights are 8-bit.
    """

    @property
    def has_kernel(self) -> bool:
        """Whether torch has oneDNN."""
        return torch.backends.mkldnn.is_available()

    def _pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
        return packed

    def _unpack(self, packed: Tensor) -> Tensor:
        return packed.to_dense().t().contiguous()

    def _by_kernel(self, rows: Tensor, packed: Tensor) -> Tensor:
        numbers = rows.float()
        largest = numbers.abs().amax(1, keepdim=True).clamp_(min=_SMALLEST_ROW)  # [n, 1]
        middle = int(_INPUT_STEPS) + 1
        unsigned = (numbers * (_INPUT_STEPS / largest)).round_().add_(middle).to(torch.uint8)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1 / _INPUT_STEPS, middle, packed, self.scale.float(), self._zeros(), None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return (result * largest).to(rows.dtype)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.out_features, dtype=torch.long)

"""A linear layer with a 4-bit matrix: groups of 32 numbers share a scale and a middle.

The kernel of torch wants the numbers in an order that depends on the processor. They are saved in plain order, two a
byte, and brought into the other when the layer is used; the order is found by packing a matrix that names its rows.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.narrow_linear import NarrowLinear, bfloat16_exact

GROUP_SIZE = 32
"""Numbers that share a scale."""

_LARGEST, _MIDDLE = 15, 8
_ROWS = 16  # the kernel takes rows by so many


class Int4Linear(NarrowLinear):
    """4-bit weights `(number - 8) * scale + middle`; inputs are rounded to bfloat16 for the product.

    Half the memory of `Int8Linear`, and ten times its rounding.

    Raises:
        OLMoConfigurationError: the width of the input is no multiple of 32, or that of the output none of 16.
    """

    def __init__(self, in_features: int, out_features: int, has_bias: bool = False) -> None:
        if in_features % GROUP_SIZE or out_features % _ROWS:
            raise OLMoConfigurationError(
                f"a matrix of {[out_features, in_features]} cannot be kept in 4 bits: it needs a multiple of {_ROWS} "
                f"rows and of {GROUP_SIZE} columns; keep this layer in full precision, or use int8"
            )
        super().__init__(in_features, out_features, has_bias)
        self.register_buffer("weight", torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(in_features // GROUP_SIZE, out_features, 2))  # scale, middle

    def take(self, weight: Tensor, dtype: torch.dtype | None = None) -> None:
        """See `NarrowLinear.take`."""
        self.unpack()
        groups = weight.float().unflatten(1, (-1, GROUP_SIZE))  # [out, groups, 32]
        low, high = groups.amin(2), groups.amax(2)  # [out, groups]
        step = bfloat16_exact(((high - low) / _LARGEST).clamp(min=torch.finfo(torch.bfloat16).tiny), torch.float32)
        middle = bfloat16_exact(low + _MIDDLE * step, torch.float32)
        numbers = ((groups - middle[..., None]) / step[..., None] + _MIDDLE).round_().clamp_(0, _LARGEST)
        self.weight = _two_a_byte(numbers.to(torch.uint8).flatten(1))
        self.scale = torch.stack([step, middle], -1).transpose(0, 1).contiguous().to(dtype or weight.dtype)

    def widened(self) -> Tensor:
        """See `NarrowLinear.widened`."""
        self.unpack()
        step, middle = self.scale.float().transpose(0, 1).unsqueeze(2).unbind(-1)  # [out, groups, 1] each
        groups = _one_each(self.weight).float().unflatten(1, (-1, GROUP_SIZE))
        return ((groups - _MIDDLE) * step + middle).flatten(1)

    @property
    def has_kernel(self) -> bool:
        """Whether this torch has the kernel."""
        return hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")

    def _pack(self, weight: Tensor) -> Tensor:
        self.scale = self.scale.to(torch.bfloat16)  # exact; the kernel takes no other
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(_one_each(weight).int(), 1)
        return packed

    def _unpack(self, packed: Tensor) -> Tensor:
        numbers = packed.new_empty(self.out_features, self.in_features)
        flat, width = packed.flatten(), self.in_features
        block = _block_rows()
        for first in range(0, self.out_features, block):
            n_rows = min(block, self.out_features - first)
            low, high = _row_order(n_rows)
            there = flat[first * width // 2 : (first + n_rows) * width // 2].view(width, n_rows // 2)
            numbers[first + low] = (there & _LARGEST).t()
            numbers[first + high] = (there >> 4).t()
        return _two_a_byte(numbers)

    def _by_kernel(self, rows: Tensor, packed: Tensor) -> Tensor:
        narrow = rows.to(torch.bfloat16)
        result: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(narrow, packed, GROUP_SIZE, self.scale)
        return result.to(rows.dtype)


def _two_a_byte(numbers: Tensor) -> Tensor:
    """Numbers 0 to 15 `[out, in]` as bytes `[out, in / 2]`, the earlier one below."""
    return numbers[:, ::2] | (numbers[:, 1::2] << 4)


def _one_each(packed: Tensor) -> Tensor:
    """Bytes `[out, in / 2]` as numbers `[out, in]`."""
    return torch.stack([packed & _LARGEST, packed >> 4], -1).flatten(1)


def _packed_probe(numbers: Tensor) -> Tensor:
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int(), 1).flatten()


@functools.cache
def _block_rows() -> int:
    """Rows that the kernel keeps together, column by column."""
    probe = torch.zeros(8 * _ROWS, GROUP_SIZE)
    probe[0, 1] = 1  # the second column of a block begins after half a byte for each of its rows
    return 2 * int(_packed_probe(probe).argmax())


@functools.cache
def _row_order(n_rows: int) -> tuple[Tensor, Tensor]:
    """Which row of a block is in the lower and the higher half of each of its bytes, `[n_rows / 2]` each."""
    rows = torch.arange(n_rows)[:, None].expand(n_rows, GROUP_SIZE)
    units, sixteens = (_packed_probe(digit)[: n_rows // 2].long() for digit in (rows % 16, rows // 16))
    return (units & _LARGEST) + 16 * (sixteens & _LARGEST), (units >> 4) + 16 * (sixteens >> 4)

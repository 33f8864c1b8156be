"""A frozen linear layer that keeps its matrix in 4 bits, as NF4 numbers of the `torchao` library.

About half a byte a number: 64 of them share a scale, and 256 scales one more. Made for GPUs; on the CPU it works but is
slower than `Int8Linear`. `torchao` is imported when a layer is made.

Source: Dettmers et al. 2023 (QLoRA), section 3: 4-bit NormalFloat, double quantisation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.exceptions import OLMoConfigurationError

BLOCK_SIZE, SCALE_BLOCK_SIZE = 64, 256
"""Numbers that share a scale, and scales that share one."""


class Nf4Linear(nn.Linear):
    """An `nn.Linear` whose matrix is NF4; it does not learn.

    The matrix is a buffer that checkpoints leave out, because it comes from the base model each time.

    Args:
        source: the layer to copy; it is not changed.

    Raises:
        OLMoConfigurationError: `torchao` is missing, or the matrix cannot be cut into blocks.
    """

    def __init__(self, source: nn.Linear) -> None:
        try:
            from torchao.quantization import to_nf4
        except ImportError as error:
            raise OLMoConfigurationError(
                f"a 4-bit base needs torchao 0.18 or newer ({error}); pip install 'molmo[qlora]', or use an int8 base"
            ) from None
        nn.Module.__init__(self)  # the constructor of nn.Linear would draw a float matrix first
        self.in_features, self.out_features = source.in_features, source.out_features
        if source.weight.numel() % (BLOCK_SIZE * SCALE_BLOCK_SIZE):
            raise OLMoConfigurationError(
                f"a matrix of {list(source.weight.shape)} cannot be kept in 4 bits: its size must be a multiple of "
                f"{BLOCK_SIZE * SCALE_BLOCK_SIZE}; use an int8 base, or leave this layer out by target_modules"
            )
        matrix = to_nf4(source.weight.detach(), BLOCK_SIZE, SCALE_BLOCK_SIZE)
        self.register_buffer("weight", matrix, persistent=False)  # [out, in]
        bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone(), requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor) -> Tensor:
        """`input` `[..., in]` times the widened matrix, plus the bias: `[..., out]`, in the dtype of the input."""
        device = input.device.type
        if torch.is_autocast_enabled(device):  # torchao's product does not see autocast
            input = input.to(torch.get_autocast_dtype(device))
        result = F.linear(input, self.weight)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def widened(self) -> Tensor:
        """The matrix that the 4-bit numbers stand for, float32 `[out, in]`."""
        matrix: Any = self.weight
        widened: Tensor = matrix.get_original_weight()
        return widened.float()

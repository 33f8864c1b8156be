"""`NarrowLinear`: what linear layers with a narrow matrix share.

A layer has two states. In the first its matrix lies in plain buffers, the same on every machine: so it is saved, loaded
and moved. In the second it is packed for the kernel of this CPU, and the plain matrix is gone. A layer packs itself
when it is used and unpacks itself when someone asks for its tensors. Made for inference: nothing of it learns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NarrowLinear(nn.Module, ABC):
    """A linear layer that keeps its matrix in fewer bits; made without values on the current default device.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        has_bias: whether a bias is added, in full precision.

    Raises:
        OLMoConfigurationError: a matrix of this shape cannot be kept so.
    """

    weight: Tensor
    """Whole numbers of the matrix; missing while it is packed."""

    scale: Tensor
    """Floating point steps of the whole numbers, exact in bfloat16."""

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, has_bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if has_bias else None
        self.register_parameter("bias", bias)
        self._packed: Tensor | None = None

    @classmethod
    def of(cls, source: nn.Linear) -> Self:
        """The layer for the matrix and bias of `source`, which is not changed."""
        with torch.device("meta"):
            layer = cls(source.in_features, source.out_features, source.bias is not None)
        layer.take(source.weight.detach())
        if source.bias is not None:
            layer.bias = nn.Parameter(source.bias.detach().clone(), requires_grad=False)
        return layer

    @abstractmethod
    def take(self, weight: Tensor, dtype: torch.dtype | None = None) -> None:
        """Round a matrix and keep the result in place of the one before.

        Args:
            weight: floating point `[out, in]`; the result is on its device.
            dtype: of the scales; None takes that of `weight`.
        """

    @abstractmethod
    def widened(self) -> Tensor:
        """The matrix that the whole numbers stand for, float32 `[out, in]`."""

    @property
    @abstractmethod
    def has_kernel(self) -> bool:
        """Whether the CPU kernel can multiply by a matrix of this shape."""

    @abstractmethod
    def _pack(self, weight: Tensor) -> Tensor:
        """The plain matrix as the kernel wants it."""

    @abstractmethod
    def _unpack(self, packed: Tensor) -> Tensor:
        """The plain matrix again."""

    @abstractmethod
    def _by_kernel(self, rows: Tensor, packed: Tensor) -> Tensor:
        """`rows` `[n, in]` times the packed matrix, `[n, out]`, in the dtype of the rows."""

    @torch.no_grad()
    def pack(self) -> Tensor | None:
        """Get ready for the kernel of this CPU; None where it cannot be used."""
        if self._packed is None and self.weight.device.type == "cpu" and self.has_kernel:
            self._packed = self._pack(self.weight)
            del self.weight
        return self._packed

    @torch.no_grad()
    def unpack(self) -> None:
        """Put the matrix back into its plain buffer."""
        if self._packed is not None:
            self.register_buffer("weight", self._unpack(self._packed))
            self._packed = None

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[..., in]` times the matrix, plus the bias: `[..., out]`, in the dtype of the input."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        needs_gradient = torch.is_grad_enabled() and x.requires_grad  # which the kernels have not
        packed = None if needs_gradient or device != "cpu" else self.pack()
        if packed is None:
            result = F.linear(x, self.widened().to(x.dtype))
        else:
            rows = x.reshape(-1, self.in_features).contiguous()
            result = self._by_kernel(rows, packed).view(*x.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias.to(result.dtype)

    def extra_repr(self) -> str:
        """Sizes, as `nn.Linear` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    # -- whoever asks for the tensors gets the plain ones ----------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.unpack()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*arguments, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.unpack()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: a packed matrix cannot be copied everywhere."""
        self.unpack()
        return self.__dict__.copy()


def bfloat16_exact(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps rounded to what bfloat16 can say, as `dtype`: kernels compute with bfloat16 steps."""
    return steps.to(torch.bfloat16).to(dtype)

"""Linear layers that wait for their weights, and the choice of the matrix kernel on the CPU.

`nn.Linear` draws random weights when it is made. Here the model draws them all at once from a given generator, or a
checkpoint brings them, so the first draw would cost time and disturb the global random state for nothing.

On x86, torch hands float32 products to MKL. oneDNN, which torch has too, reads large matrices quicker, above all for
the few rows of a decoding step. The numbers are in `benchmarks/README.md`; results differ by rounding only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

# oneDNN costs about 12 microseconds more a call. It gains that on a matrix of this many numbers, whatever the rows,
# and on a smaller one from this many multiplications.
_LARGE_MATRIX = 512 * 1024
_LARGE_PRODUCT = 8 * 1024**2

# An operator that torch keeps for its own compiler; where it is missing, or torch has no MKL to be better than, the
# usual path is taken.
_onednn_linear = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    else None
)


class Linear(nn.Linear):
    """An `nn.Linear` that multiplies by `project`."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` `[..., in]` times the weights, plus the bias: `[..., out]`."""
        return project(input, self.weight, self.bias)


def linear(in_features: int, out_features: int, bias: bool = False) -> nn.Linear:
    """A linear layer on the current default device whose values are not set yet."""
    layer = skip_init(Linear, in_features, out_features, bias=bias, device=torch.get_default_device())
    assert isinstance(layer, nn.Linear), "skip_init makes the class it is given"
    return layer


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` by the quicker kernel; the same as `F.linear` up to rounding.

    Args:
        x: `[..., in]`.
        weight: `[out, in]`.
        bias: `[out]` or None.
    """
    if _onednn_linear is None or not _is_large(x, weight) or not takes_onednn(x, weight):
        return F.linear(x, weight, bias)
    result: Tensor = _onednn_linear(x, weight, bias, "none", [], "")
    return result


def _is_large(x: Tensor, weight: Tensor) -> bool:
    return weight.numel() >= _LARGE_MATRIX or x.numel() * weight.shape[0] >= _LARGE_PRODUCT


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there, and the product is float32 on the CPU, eager, without gradients: all that it can do."""
    return (
        _onednn_linear is not None
        and x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)  # a sharded or quantised weight brings its own product
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.numel() > 0
    )

"""Pooling: how a window of patch features becomes one picture token.

Windows are cut from the grid row by row, and the patches of a window stay in row-major order. It knows nothing of
padding marks, of the encoder or of the language model.

Source: Deitke et al. 2024 (Molmo), section 2, and the released v1 weights for `attention-meanq`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.image_vit import init_linear
from olmo.nn.linear import linear
from olmo.nn.vision_config import ImagePooling, MolmoVisionBackboneConfig


def cut_windows(features: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Group the patches of a grid into windows.

    A grid that the window does not divide gets rows and columns of zeros at the bottom and at the right. The released
    models count these zeros as members of their window, and so do all poolings here.

    Args:
        features: `[M, P, C]`, row-major over `grid`.
        grid: rows and columns of patches.
        window: height and width of a window, in patches.

    Returns:
        `[M, windows, window height * window width, C]`, windows and members row-major.
    """
    (rows, columns), (height, width) = grid, window
    n, _, channels = features.shape
    x = features.reshape(n, rows, columns, channels)
    below, right = -rows % height, -columns % width
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
        rows, columns = rows + below, columns + right
    x = x.view(n, rows // height, height, columns // width, width, channels)
    x = x.transpose(2, 3)  # [M, window rows, window columns, height, width, C]
    return x.reshape(n, x.shape[1] * x.shape[2], height * width, channels)


class StackPooling(nn.Module):
    """The members of a window side by side on the channels; over 1 x 1 windows this changes nothing."""

    def __init__(self, input_dim: int, n_members: int) -> None:
        super().__init__()
        self.output_dim = input_dim * n_members

    def forward(self, windows: Tensor) -> Tensor:
        """Map `[M, windows, members, C]` to `[M, windows, members * C]`."""
        return windows.flatten(2)


class MeanPooling(nn.Module):
    """The mean of a window, padding zeros included."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def forward(self, windows: Tensor) -> Tensor:
        """Map `[M, windows, members, C]` to `[M, windows, C]`."""
        return windows.mean(dim=2)


class AttentionPooling(nn.Module):
    """One query a window attends to the members of the window.

    Args:
        input_dim: width of the patch features C.
        output_dim: width of the projections and of the result D.
        n_heads: attention heads; divides `output_dim`.
        has_mean_query: the query is the mean of the window; False means its first member.
    """

    def __init__(self, input_dim: int, output_dim: int, n_heads: int, *, has_mean_query: bool) -> None:
        super().__init__()
        self.output_dim, self.has_mean_query = output_dim, has_mean_query
        self.n_heads, self.head_dim = n_heads, output_dim // n_heads
        self.wq = linear(input_dim, output_dim, bias=True)
        self.wk = linear(input_dim, output_dim, bias=True)
        self.wv = linear(input_dim, output_dim, bias=True)
        self.wo = linear(output_dim, output_dim, bias=True)

    def forward(self, windows: Tensor) -> Tensor:
        """Pool.

        Args:
            windows: `[M, windows, members, C]`.

        Returns:
            `[M, windows, D]`.
        """
        first = windows.mean(dim=2, keepdim=True) if self.has_mean_query else windows[:, :, :1]
        query, key, value = self.wq(first), self.wk(windows), self.wv(windows)  # [M, windows, 1 or members, D]
        # Windows hold a handful of members, where products and sums beat the fused attention (a quarter less time for
        # a training step of this module on two CPU cores). Scores and sums are float32.
        scores = self._heads(query.float() * key.float()).sum(-1) * self.head_dim**-0.5  # [M, windows, members, H]
        shares = scores.softmax(dim=2)[..., None]
        pooled = (self._heads(value.float()) * shares).sum(2).flatten(2)  # [M, windows, D]
        return self.wo(pooled.to(value.dtype))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, self.head_dim))  # [M, windows, members, H, Dh]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: normal with deviation 0.02, zero biases."""
        for layer in (self.wq, self.wk, self.wv, self.wo):
            init_linear(layer, generator)


Pooling = StackPooling | MeanPooling | AttentionPooling


def build_pooling(config: MolmoVisionBackboneConfig) -> Pooling:
    """The pooling that `config.image_pooling_2d` names; it has the width of the encoder's heads."""
    spec = config.vit.spec
    input_dim = len(config.layers) * spec.d_model
    kind = config.image_pooling_2d
    if kind in (ImagePooling.stack, ImagePooling.none):
        return StackPooling(input_dim, config.image_pooling_h * config.image_pooling_w)
    if kind is ImagePooling.mean:
        return MeanPooling(input_dim)
    widening = 2 if kind is ImagePooling.attention_2wide else 1
    has_mean_query = kind is ImagePooling.attention_meanq
    return AttentionPooling(input_dim, widening * spec.d_model, spec.n_heads, has_mean_query=has_mean_query)

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


def cut_windows(features: Tensor, grid: tuple[int, int], window: tuple[int, int], is_centred: bool = False) -> Tensor:
    """Group the patches of a grid into windows.

    A grid that the window does not divide gets rows and columns of zeros. The released models count these zeros as
    members of their window, and so do all poolings here that are not told otherwise; see `window_members`.

    Args:
        features: `[M, P, C]`, row-major over `grid`.
        grid: rows and columns of patches.
        window: height and width of a window, in patches.
        is_centred: share the zeros out to both sides, instead of putting them at the bottom and at the right.

    Returns:
        `[M, windows, window height * window width, C]`, windows and members row-major.
    """
    (rows, columns), (height, width) = grid, window
    n, _, channels = features.shape
    x = features.reshape(n, rows, columns, channels)
    added_rows, added_columns = -rows % height, -columns % width
    if added_rows or added_columns:
        above, left = (added_rows // 2, added_columns // 2) if is_centred else (0, 0)
        x = F.pad(x, (0, 0, left, added_columns - left, above, added_rows - above))
        rows, columns = rows + added_rows, columns + added_columns
    x = x.view(n, rows // height, height, columns // width, width, channels)
    x = x.transpose(2, 3)  # [M, window rows, window columns, height, width, C]
    return x.reshape(n, x.shape[1] * x.shape[2], height * width, channels)


def window_members(grid: tuple[int, int], window: tuple[int, int], device: torch.device | None = None) -> Tensor | None:
    """Which members of the centred windows are patches of the grid, and not zeros put around it.

    Returns:
        bool `[windows, members]`, or None where the windows divide the grid.
    """
    if grid[0] % window[0] == 0 and grid[1] % window[1] == 0:
        return None
    ones = torch.ones(1, grid[0] * grid[1], 1, device=device)
    return cut_windows(ones, grid, window, is_centred=True)[0, :, :, 0] > 0


class StackPooling(nn.Module):
    """The members of a window side by side on the channels; over 1 x 1 windows this changes nothing.

    A pooling of 1 x 1 windows that is handed larger ones takes their mean, which has the same width.
    """

    def __init__(self, input_dim: int, n_members: int) -> None:
        super().__init__()
        self.output_dim, self.n_members = input_dim * n_members, n_members

    def forward(self, windows: Tensor, members: Tensor | None = None) -> Tensor:
        """Map `[M, windows, members, C]` to `[M, windows, members * C]`; see `window_members` for `members`."""
        if self.n_members == 1 and windows.shape[2] > 1:
            return _mean(windows, members)
        return windows.flatten(2)


class MeanPooling(nn.Module):
    """The mean of a window, padding zeros included unless `members` leaves them out."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def forward(self, windows: Tensor, members: Tensor | None = None) -> Tensor:
        """Map `[M, windows, members, C]` to `[M, windows, C]`; see `window_members` for `members`."""
        return _mean(windows, members)


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

    def forward(self, windows: Tensor, members: Tensor | None = None) -> Tensor:
        """Pool.

        Args:
            windows: `[M, windows, members, C]`.
            members: bool `[windows, members]`, False on zeros that nothing may attend to; None: all are attended to.

        Returns:
            `[M, windows, D]`.
        """
        if self.has_mean_query:
            first = _mean(windows, members).unsqueeze(2)
        else:
            first = windows[:, :, :1] if members is None else _first(windows, members)
        query, key, value = self.wq(first), self.wk(windows), self.wv(windows)  # [M, windows, 1 or members, D]
        # Windows hold a handful of members, where products and sums beat the fused attention (a quarter less time for
        # a training step of this module on two CPU cores). Scores and sums are float32.
        scores = self._heads(query.float() * key.float()).sum(-1) * self.head_dim**-0.5  # [M, windows, members, H]
        if members is not None:
            scores = scores.masked_fill(~members[None, :, :, None], float("-inf"))
        shares = scores.softmax(dim=2)[..., None]
        pooled = (self._heads(value.float()) * shares).sum(2).flatten(2)  # [M, windows, D]
        return self.wo(pooled.to(value.dtype))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, self.head_dim))  # [M, windows, members, H, Dh]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: normal with deviation 0.02, zero biases."""
        for layer in (self.wq, self.wk, self.wv, self.wo):
            init_linear(layer, generator)


def _mean(windows: Tensor, members: Tensor | None) -> Tensor:
    """`[M, windows, members, C] -> [M, windows, C]`."""
    if members is None:
        return windows.mean(dim=2)
    return windows.sum(dim=2) / members.sum(dim=1).to(windows.dtype)[:, None]  # what is no member is zero


def _first(windows: Tensor, members: Tensor) -> Tensor:
    """The first real member of each window, `[M, windows, 1, C]`."""
    places = torch.arange(len(members), device=members.device)
    return windows[:, places, members.int().argmax(dim=1)].unsqueeze(2)


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

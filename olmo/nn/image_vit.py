"""The picture encoder: one vision transformer that is CLIP, SigLIP, DINOv2 or MetaCLIP by its `VitSpec`.

Patches come in as flat rows of pixels, patch features of the wanted blocks go out. It knows nothing of crops, padding
or the language model. What differs between the families is data in `vit_presets`: class token, norm before the first
block, patch bias, layer scale, activation, epsilon.

Source: Dosovitskiy et al. 2021 (ViT); Radford et al. 2021 (CLIP: norm before the blocks, quick GELU); Zhai et al. 2023
(SigLIP); Oquab et al. 2023 (DINOv2, with the layer scale of Touvron et al. 2021, CaiT, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.nn.attention_kernel import attend
from olmo.nn.linear import linear
from olmo.nn.vit_presets import VitSpec
from olmo.torch_util import autocast_dtype

INIT_STD = 0.02


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut pictures into flat patches, row-major, with the pixels of a patch in (row, column, channel) order.

    Args:
        images: pixels `[..., 3, H, W]`; H and W are multiples of `patch_size`.
        patch_size: side of a patch, in pixels.

    Returns:
        `[..., P, patch_size * patch_size * 3]` with P = (H / patch_size) * (W / patch_size).

    Raises:
        OLMoInputError: the sides are not multiples of `patch_size`.
    """
    *lead, channels, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise OLMoInputError(
            f"pictures of {height}x{width} pixels cannot be cut into patches of {patch_size}x{patch_size}; both sides "
            f"must be multiples of {patch_size}: resize or pad them first"
        )
    rows, columns = height // patch_size, width // patch_size
    n = math.prod(lead)
    x = images.reshape(n, channels, rows, patch_size, columns, patch_size)  # [M, C, rows, dy, columns, dx]
    x = x.permute(0, 2, 4, 3, 5, 1)  # [M, rows, columns, dy, dx, C]
    return x.reshape(*lead, rows * columns, patch_size * patch_size * channels)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int], channels: int = 3) -> Tensor:
    """Put flat patches together again; the exact inverse of `patchify`.

    Args:
        patches: `[..., P, patch_size * patch_size * channels]`.
        patch_size: side of a patch, in pixels.
        grid: rows and columns of patches; their product is P.
        channels: colour channels.

    Returns:
        pixels `[..., channels, H, W]`.
    """
    (rows, columns), lead = grid, patches.shape[:-2]
    n = math.prod(lead)
    x = patches.reshape(n, rows, columns, patch_size, patch_size, channels)  # [M, rows, columns, dy, dx, C]
    x = x.permute(0, 5, 1, 3, 2, 4)  # [M, C, rows, dy, columns, dx]
    return x.reshape(*lead, channels, rows * patch_size, columns * patch_size)


def square_grid(n_patches: int) -> tuple[int, int]:
    """Rows and columns of a square picture with `n_patches` patches.

    Raises:
        OLMoInputError: `n_patches` is not a square number.
    """
    side = math.isqrt(n_patches)
    if side * side != n_patches:
        raise OLMoInputError(
            f"{n_patches} patches are no square picture, so their rows and columns are not known; hand in pixels "
            "[M, 3, H, W], or say the grid"
        )
    return side, side


def float32_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Full attention with float32 scores and sums; the result has the dtype of `query`.

    Args:
        query: `[B, H, L, Dh]`.
        key: `[B, H, S, Dh]`.
        value: `[B, H, S, Dh]`.

    Returns:
        `[B, H, L, Dh]`.
    """
    # Under autocast the caller asked for the lower precision, and the operator would cast back down anyway.
    if query.dtype is torch.float32 or autocast_dtype(query.device.type) is not None:
        return attend(query, key, value)
    return attend(query.float(), key.float(), value.float()).to(query.dtype)


def init_linear(layer: nn.Linear, generator: torch.Generator | None) -> None:
    """Draw the weight from a normal distribution with deviation 0.02 and set the bias, if there is one, to zero."""
    nn.init.normal_(layer.weight, std=INIT_STD, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class QuickGelu(nn.Module):
    """`x * sigmoid(1.702 x)`, the fast form of GELU that CLIP has. Source: Hendrycks and Gimpel 2016, section 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise to `x` of any shape."""
        return x * torch.sigmoid(1.702 * x)


def _activation(name: str) -> nn.Module:
    choices: dict[str, Callable[[], nn.Module]] = {
        "quick_gelu": QuickGelu,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    }
    if name not in choices:
        raise OLMoConfigurationError(f"{name!r} is not one of {', '.join(map(repr, choices))}", "activation")
    return choices[name]()


class VitAttention(nn.Module):
    """Self-attention over all tokens of one picture, with one fused projection (rows query | key | value)."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.n_heads = spec.n_heads
        self.wqkv = linear(spec.d_model, 3 * spec.d_model, bias=True)
        self.wo = linear(spec.d_model, spec.d_model, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Args:
            x: `[M, L, D]`.

        Returns:
            `[M, L, D]`.
        """
        n, length, width = x.shape
        qkv = self.wqkv(x).view(n, length, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [M, H, L, Dh], views of one buffer
        attended = float32_attention(query, key, value)
        return self.wo(attended.transpose(1, 2).reshape(n, length, width))


class VitFeedForward(nn.Module):
    """Two linear maps with the activation of the family between them."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.w1 = linear(spec.d_model, spec.mlp_hidden_size, bias=True)
        self.activation = _activation(spec.activation)
        self.w2 = linear(spec.mlp_hidden_size, spec.d_model, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token of `x` `[M, L, D]` to `[M, L, D]`."""
        return self.w2(self.activation(self.w1(x)))


class VitBlock(nn.Module):
    """Pre-norm block; with layer scale each branch is multiplied by a learned vector before it is added."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        # The kernel of nn.LayerNorm takes its sums in float32 for lower precisions too, so no cast is needed here.
        self.attention_norm = nn.LayerNorm(spec.d_model, eps=spec.norm_eps)
        self.attention = VitAttention(spec)
        self.ffn_norm = nn.LayerNorm(spec.d_model, eps=spec.norm_eps)
        self.feed_forward = VitFeedForward(spec)
        self.lambda1 = nn.Parameter(torch.ones(spec.d_model)) if spec.has_layer_scale else None
        self.lambda2 = nn.Parameter(torch.ones(spec.d_model)) if spec.has_layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the attention branch, then the feed-forward branch, to `x` `[M, L, D]`."""
        attended = self.attention(self.attention_norm(x))
        x = x + (attended if self.lambda1 is None else attended * self.lambda1)
        mapped = self.feed_forward(self.ffn_norm(x))
        return x + (mapped if self.lambda2 is None else mapped * self.lambda2)


class VisionTransformer(nn.Module):
    """Picture encoder that returns the outputs of chosen blocks, without the class token and without a final norm.

    The weights have no values until `reset_parameters` draws them or a checkpoint brings them.

    Args:
        spec: the encoder, from `VitConfig.spec`.
    """

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.class_embedding = nn.Parameter(torch.zeros(spec.d_model)) if spec.has_class_token else None
        n_positions = spec.n_patches + int(spec.has_class_token)
        self.positional_embedding = nn.Parameter(torch.zeros(n_positions, spec.d_model))
        self.patch_embedding = linear(3 * spec.patch_size**2, spec.d_model, bias=spec.has_patch_bias)
        self.pre_ln = nn.LayerNorm(spec.d_model, eps=spec.norm_eps) if spec.has_pre_norm else None
        self.blocks = nn.ModuleList(VitBlock(spec) for _ in range(spec.n_layers))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: normal with deviation 0.02, zero biases, layer scale and norm weights at one."""
        for table in (self.class_embedding, self.positional_embedding):
            if table is not None:
                nn.init.normal_(table, std=INIT_STD, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module, generator)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, VitBlock):
                for scale in (module.lambda1, module.lambda2):
                    if scale is not None:
                        nn.init.ones_(scale)

    def forward(self, patches: Tensor, *, layers: Sequence[int], grid: tuple[int, int] | None = None) -> list[Tensor]:
        """Encode pictures as far as the deepest wanted block.

        Args:
            patches: flat pixels `[M, P, patch_size * patch_size * 3]`, normalised float, row-major over the grid.
            layers: block outputs to return, in this order; negative numbers count from the last block that exists.
            grid: rows and columns of patches; None means a square.

        Returns:
            For each of `layers` the features `[M, P, D]`.
        """
        wanted = [layer % self.spec.n_layers for layer in layers]
        outputs: dict[int, Tensor] = {}
        x = self.embed(patches, grid or square_grid(patches.shape[1]))
        for index in range(max(wanted) + 1):
            x = self.blocks[index](x)
            if index in wanted:
                outputs[index] = x if self.class_embedding is None else x[:, 1:]
        return [outputs[index] for index in wanted]

    def embed(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """The input of the first block, `[M, L, D]`; L counts the class token where there is one."""
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        positions = self.positions(grid)
        if self.class_embedding is None:
            x = x + positions
        else:
            first = (self.class_embedding + positions[0]).expand(x.shape[0], 1, -1)
            x = torch.cat((first, x + positions[1:]), dim=1)
        return x if self.pre_ln is None else self.pre_ln(x)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table for a grid: itself for the native one, else resized (bicubic, antialias).

        Args:
            grid: rows and columns of patches.

        Returns:
            `[rows * columns (+ 1 for the class token), D]`, in the dtype of the table.
        """
        table, side = self.positional_embedding, self.spec.grid
        if tuple(grid) == (side, side):
            return table
        first, rest = table[: -self.spec.n_patches], table[-self.spec.n_patches :]
        square = rest.float().view(1, side, side, -1).permute(0, 3, 1, 2)  # [1, D, side, side]
        resized = F.interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat((first, resized[0].flatten(1).t().to(table.dtype)))

"""The connector: padding marks, dropout, pooling and projector, from patch features to tokens of the language model.

It sees features and the share of real pixels in each patch; it knows neither the encoder nor where tokens go.

Source: Deitke et al. 2024 (Molmo), section 2, and the released v1 weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.image_pooling import AttentionPooling, build_pooling, cut_windows, window_members
from olmo.nn.image_projector import build_projector
from olmo.nn.image_vit import square_grid
from olmo.nn.vision_config import ImagePaddingEmbed, MolmoVisionBackboneConfig


class Connector(nn.Module):
    """Patch features to picture tokens.

    Args:
        config: the vision backbone it belongs to.
        output_dim: width D of the tokens.
        hidden_dim: inner width of the projector.
    """

    def __init__(self, config: MolmoVisionBackboneConfig, output_dim: int, hidden_dim: int) -> None:
        super().__init__()
        input_dim = len(config.layers) * config.vit.spec.d_model
        self.window = (config.image_pooling_h, config.image_pooling_w)
        self.dropout = config.image_feature_dropout
        self.padding_embed = config.image_padding_embed
        has_two_marks = self.padding_embed is ImagePaddingEmbed.pad_and_partial_pad
        marks = torch.zeros((2, input_dim) if has_two_marks else input_dim)
        self.pad_embed = None if self.padding_embed is None else nn.Parameter(marks)
        self.image_pooling_2d = build_pooling(config)
        self.image_projector = build_projector(
            config.image_projector, self.image_pooling_2d.output_dim, hidden_dim, output_dim
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights; the padding marks start at zero."""
        if self.pad_embed is not None:
            nn.init.zeros_(self.pad_embed)
        if isinstance(self.image_pooling_2d, AttentionPooling):
            self.image_pooling_2d.reset_parameters(generator)
        self.image_projector.reset_parameters(generator)

    def forward(
        self,
        features: Tensor,
        patch_mask: Tensor,
        grid: tuple[int, int] | None = None,
        window: tuple[int, int] | None = None,
    ) -> Tensor:
        """Mark padding, pool and project.

        Args:
            features: `[M, P, C]`, row-major over the grid.
            patch_mask: `[M, P]`, share of real pixels in each patch, 0 to 1, or -1 for filler.
            grid: rows and columns of patches; None means a square.
            window: height and width of other windows than those of the configuration, in patches. A grid that they do
                not divide is then padded on all sides, and nothing attends to the padding.

        Returns:
            `[M, tokens, D]`, row-major over the pooled grid.
        """
        features = self.mark_padding(features, patch_mask)
        if self.dropout:
            features = F.dropout(features, self.dropout, self.training)
        grid = grid or square_grid(features.shape[1])
        if window is None:
            return self.image_projector(self.image_pooling_2d(cut_windows(features, grid, self.window)))
        windows = cut_windows(features, grid, window, is_centred=True)
        members = window_members(grid, window, features.device)
        return self.image_projector(self.image_pooling_2d(windows, members))

    def mark_padding(self, features: Tensor, patch_mask: Tensor) -> Tensor:
        """Add the learned padding marks.

        Args:
            features: `[M, P, C]`.
            patch_mask: `[M, P]`, as in `forward`. The released models count the filler -1 as partly padded.

        Returns:
            `[M, P, C]`.
        """
        if self.pad_embed is None:
            return features
        if self.padding_embed is ImagePaddingEmbed.regress:
            return features + patch_mask.clamp(min=0).to(features.dtype)[..., None] * self.pad_embed
        is_padding = patch_mask == 0
        if self.padding_embed is ImagePaddingEmbed.pad_embed:
            return features + is_padding.to(features.dtype)[..., None] * self.pad_embed
        is_partial = (patch_mask < 1) & ~is_padding
        marks = torch.stack((is_padding, is_partial), dim=-1).to(features.dtype)  # [M, P, 2]
        return features + marks @ self.pad_embed

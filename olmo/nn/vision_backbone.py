"""The vision backbone: picture encoder and connector, from pixels to tokens of the language model.

It works on a flat list of crops (or frames); which example and which position a crop belongs to is known above.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from olmo.exceptions import OLMoInputError
from olmo.nn.connector import Connector
from olmo.nn.image_vit import VisionTransformer, patchify, square_grid
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig


class MolmoVisionBackbone(nn.Module):
    """Crops to picture tokens.

    Args:
        config: encoder and connector.
        llm: the language model that the tokens go to; only its widths are read.
    """

    def __init__(self, config: MolmoVisionBackboneConfig, llm: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.image_vit = VisionTransformer(config.vit.spec)
        self.connector = Connector(config, llm.d_model, config.projector_hidden_size or llm.resolved_mlp_hidden_size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights for the encoder, then for the connector."""
        self.image_vit.reset_parameters(generator)
        self.connector.reset_parameters(generator)

    def forward(
        self, images: Tensor, image_masks: Tensor | None = None, window: tuple[int, int] | None = None
    ) -> Tensor:
        """Encode crops and bring them to the language model.

        Args:
            images: normalised pixels `[M, 3, H, W]`, or flat patches `[M, P, patch_size * patch_size * 3]` of square
                crops.
            image_masks: `[M, P]`, share of real pixels in each patch, 0 to 1, or -1 for filler; None means all real.
            window: pool these windows instead of the configured ones; see `Connector.forward`.

        Returns:
            `[M, tokens, D]`.

        Raises:
            OLMoInputError: `images` has neither form, or `image_masks` does not fit it.
        """
        patches, grid = self.to_patches(images)
        if image_masks is None:
            image_masks = patches.new_ones(patches.shape[:2])
        if image_masks.shape != patches.shape[:2]:
            raise OLMoInputError(
                f"image_masks has shape {list(image_masks.shape)}, but the pictures have {list(patches.shape[:2])} "
                "crops and patches; hand in one value for each patch, or leave image_masks out"
            )
        return self.connector(self.encode(patches, grid), image_masks, grid, window)

    def encode(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch features of the chosen blocks, concatenated on the channels in the order of the configuration.

        Args:
            patches: `[M, P, patch_size * patch_size * 3]`.
            grid: rows and columns of patches.

        Returns:
            `[M, P, C]` with C = number of chosen blocks * width of the encoder.
        """
        outputs = self.image_vit(patches, layers=self.config.layers, grid=grid)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def to_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Flat patches `[M, P, patch_size * patch_size * 3]` and their grid, from either form of `images`."""
        size = self.image_vit.spec.patch_size
        if images.ndim == 4 and images.shape[1] == 3:
            return patchify(images, size), (images.shape[-2] // size, images.shape[-1] // size)
        if images.ndim == 3 and images.shape[-1] == 3 * size * size:
            return images, square_grid(images.shape[1])
        raise OLMoInputError(
            f"images of shape {list(images.shape)}; allowed are pixels [M, 3, H, W] and flat patches "
            f"[M, P, {3 * size * size}] (patches of {size}x{size} pixels, row, column, channel)"
        )

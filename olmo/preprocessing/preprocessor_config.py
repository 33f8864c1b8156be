"""Configuration of picture preprocessing and of prompt formatting. No pixels here."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


class CropMode(ConfigEnum):
    """How a picture becomes crops."""

    overlap_and_resize_c2 = "overlap-and-resize-c2"
    resize = "resize"


@dataclass(kw_only=True)
class MolmoPreprocessorConfig(BaseConfig):
    """Picture preprocessing. Window sizes and pixel statistics come from the vision backbone."""

    crop_mode: CropMode = CropMode.overlap_and_resize_c2
    """`overlap-and-resize-c2`: a global crop and up to max_crops overlapping ones; `resize`: the global crop alone."""

    max_crops: int = 12
    """High-resolution crops, the global one not counted."""

    overlap_margins: list[int] = field(default_factory=lambda: [4, 4])
    """Patches that neighbouring crops share on the (left or top, right or bottom) side; [4, 4] in released models."""

    use_col_tokens: bool = True
    """Put a column token after each row of picture tokens."""

    legacy_image_mask: bool = False
    """Shift the padding masks by one crop, as the code did that the released v1 weights were trained with."""

    max_pixels: int = 89_478_485
    """Pictures of more pixels are refused before they are decoded (decompression bombs)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.overlap_margins) != 2 or min(self.overlap_margins) < 0:
            raise OLMoConfigurationError(f"wants two counts >= 0, got {self.overlap_margins}", "overlap_margins")
        if self.max_crops < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.max_crops}", "max_crops")
        if self.max_pixels < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.max_pixels}", "max_pixels")

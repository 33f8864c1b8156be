"""The published encoders: their sizes, positions and wanted blocks."""

from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.image_vit import VisionTransformer
from olmo.nn.vit_config import ImageModelType, VitConfig
from olmo.nn.vit_presets import VIT_PRESETS


def test_every_family_has_a_preset() -> None:
    assert {family.value for family in ImageModelType} == set(VIT_PRESETS)


@pytest.mark.parametrize(
    ("family", "grid", "n_positions", "layers", "n_parameters"),
    [
        ("openai", 24, 577, (21, 14), 290_909_184),
        # Blocks * (4 d^2 + 2 d m + 9 d + m, with layer scale 2 d more) + patches, positions, class token, first norm.
        ("siglip", 27, 729, (24, 18), 27 * (4 * 1152**2 + 2 * 1152 * 4304 + 9 * 1152 + 4304) + 1152 * (588 + 1 + 729)),
        ("dino", 24, 577, (21, 15), 24 * (12 * 1024**2 + 15 * 1024) + 1024 * (588 + 1 + 577 + 1)),
        ("metaclip", 24, 577, (21, 15), 24 * (12 * 1024**2 + 13 * 1024) + 1024 * (588 + 577 + 1 + 2)),
    ],
)
def test_published_sizes(family: str, grid: int, n_positions: int, layers: tuple[int, int], n_parameters: int) -> None:
    spec = VitConfig(image_model_type=family).spec
    assert spec.grid == grid and spec.n_patches == grid**2
    assert tuple(layer % spec.n_layers for layer in spec.features_from) == layers
    with torch.device("meta"):
        vit = VisionTransformer(spec)
    assert vit.positional_embedding.shape[0] == n_positions
    assert sum(p.numel() for p in vit.parameters()) == n_parameters


def test_what_is_set_goes_over_the_preset() -> None:
    config = VitConfig.new(image_model_type="dino", n_layers=3)
    assert config.spec.n_layers == 3 and config.spec.has_layer_scale
    other = config.replace(image_model_type="siglip")
    assert other.spec.n_layers == 3 and other.spec.d_model == 1152


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_size": 340}, "image_size"),
        ({"n_heads": 7}, "n_heads"),
        ({"depth": 3}, "depth"),
        ({"n_heads": 0}, "n_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], field: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=field):
        VitConfig.new(**changes)

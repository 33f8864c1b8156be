"""The vision backbone's configuration: two spellings of the encoder, defaults, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.vision_config import ImagePooling, ImageProjector, MolmoVisionBackboneConfig
from olmo.nn.vit_config import ImageModelType


def test_defaults_are_the_released_models() -> None:
    config = MolmoVisionBackboneConfig()
    assert config.image_model_type is ImageModelType.openai
    assert config.layers == (-2, -9)
    assert config.tokens_per_side == (12, 12)
    assert config.image_pooling_2d is ImagePooling.attention_meanq
    assert config.image_projector is ImageProjector.mlp


def test_both_spellings_of_the_encoder_mean_one_thing() -> None:
    flat = MolmoVisionBackboneConfig.new(image_model_type="siglip")
    nested = MolmoVisionBackboneConfig.new(vit={"image_model_type": "siglip"})
    assert flat == nested
    assert flat.image_model_type is flat.vit.image_model_type is ImageModelType.siglip
    assert flat.layers == (-3, -9)
    assert "image_model_type" not in flat.asdict()


def test_the_flat_spelling_as_an_override() -> None:
    config = MolmoVisionBackboneConfig.from_dict({}, ["image_model_type=dino", "vit.n_layers=12"])
    assert config.vit.spec.has_layer_scale and config.vit.spec.n_layers == 12


def test_wanted_blocks_follow_the_encoder_unless_set() -> None:
    config = MolmoVisionBackboneConfig.new(vit_layers=[-1])
    assert config.replace(image_model_type="siglip").layers == (-1,)
    assert MolmoVisionBackboneConfig().replace(image_model_type="siglip").layers == (-3, -9)


@pytest.mark.parametrize(
    ("family", "window", "tokens"), [("openai", 2, 12), ("siglip", 3, 9), ("siglip", 2, 14), ("siglip", 9, 3)]
)
def test_tokens_per_side_rounds_up(family: str, window: int, tokens: int) -> None:
    config = MolmoVisionBackboneConfig.new(image_model_type=family, image_pooling_h=window, image_pooling_w=window)
    assert config.tokens_per_side == (tokens, tokens)


def test_no_pooling_means_windows_of_one_patch() -> None:
    config = MolmoVisionBackboneConfig(image_pooling_2d="none")
    assert (config.image_pooling_h, config.image_pooling_w) == (1, 1)
    assert config.tokens_per_side == (24, 24)


@pytest.mark.parametrize("spelling", ["attention-meanq", "attention_meanq", "Attention-MeanQ"])
def test_spellings_of_the_released_pooling(spelling: str) -> None:
    assert MolmoVisionBackboneConfig(image_pooling_2d=spelling).image_pooling_2d is ImagePooling.attention_meanq


@pytest.mark.parametrize("pooling", list(ImagePooling))
def test_save_and_load(tmp_path: Path, pooling: ImagePooling) -> None:
    config = MolmoVisionBackboneConfig.new(
        image_model_type="metaclip", image_pooling_2d=pooling, image_projector="2mlp", image_padding_embed=None
    )
    config.save(tmp_path / "vision.yaml")
    assert MolmoVisionBackboneConfig.load(tmp_path / "vision.yaml") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vit_layers": [-24]}, "vit_layers: -24 is outside the 23 blocks"),
        ({"vit_layers": [23]}, "vit_layers: 23 is outside the 23 blocks"),
        ({"vit_layers": []}, "vit_layers"),
        ({"image_pooling_w": 0}, "image_pooling_w"),
        ({"projector_hidden_size": 0}, "projector_hidden_size"),
        ({"image_feature_dropout": 1.0}, "image_feature_dropout"),
        ({"image_pooling_2d": "max"}, "image_pooling_2d: 'max' is not one of"),
        ({"image_model_type": "clip"}, "image_model_type: 'clip' is not one of"),
        ({"vit": {"n_heads": 3}}, "vit.n_heads"),
        ({"image_pool_h": 2}, "did you mean 'image_pooling_h'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=message):
        MolmoVisionBackboneConfig.new(**changes)

"""A tiny VideoOlmo: the tiny Molmo of `tests/models`, whose frames are 4 x 4 patches pooled 2 x 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig


def loud(model: VideoOlmo) -> VideoOlmo:
    """Larger weights on the way of pictures; at their start frames hardly change what the language model sees."""
    assert model.vision_backbone is not None
    with torch.no_grad():
        for parameter in model.vision_backbone.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
    return model


MakeVideoModel = Callable[..., VideoOlmo]


@pytest.fixture(scope="session")
def make_video_config(make_config: Callable[..., MolmoConfig]) -> Callable[..., VideoOlmoConfig]:
    """`make_video_config(max_frames=4, llm__n_layers=3)`."""

    def make(**fields: Any) -> VideoOlmoConfig:
        dotted = {name: value for name, value in fields.items() if "__" in name}
        own = {name: value for name, value in fields.items() if "__" not in name}
        return VideoOlmoConfig.from_molmo(make_config(**dotted), **{"pooling_h": 2, "pooling_w": 2, **own})

    return make


@pytest.fixture(scope="session")
def make_video_model(make_video_config: Callable[..., VideoOlmoConfig]) -> MakeVideoModel:
    """`make_video_model(max_frames=4)`: a random model in eval mode; the same arguments give the same object."""
    made: dict[str, VideoOlmo] = {}

    def make(**fields: Any) -> VideoOlmo:
        key = repr(sorted(fields.items()))
        if key not in made:
            made[key] = loud(VideoOlmo(make_video_config(**fields))).eval()
        return made[key]

    return make

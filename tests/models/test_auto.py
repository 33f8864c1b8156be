"""The class that a checkpoint is loaded as."""

from __future__ import annotations

import pytest
import torch
from tiny import write_tokenizer

from olmo.exceptions import OLMoCheckpointError
from olmo.models import auto
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig


@pytest.fixture
def molmo_folders(make_config, tmp_path):
    """A Molmo in both layouts, with windows of its own shape that it has weights for alone."""
    pooling = {f"vision_backbone__image_pooling_{k}": v for k, v in {"2d": "stack", "h": 2, "w": 1}.items()}
    molmo = Molmo(make_config(**pooling), seed=1)
    molmo.save_checkpoint(tmp_path / "native")
    molmo.save_pretrained_hf(tmp_path / "released")
    write_tokenizer(tmp_path / "released")
    return tmp_path


@pytest.mark.parametrize("layout", ["native", "released"])
def test_a_molmo_is_loaded_for_video_only_where_that_is_asked(molmo_folders, layout):
    folder = molmo_folders / layout
    plain = auto.from_pretrained(folder)
    model = auto.from_pretrained(folder, for_video=True, overrides=["max_frames=5"], dtype="bfloat16")
    assert isinstance(plain, Molmo) and isinstance(model, VideoOlmo)
    assert (model.config.max_frames, model.config.frame_resolution) == (5, "auto")
    assert (model.config.pooling_h, model.config.pooling_w) == (2, 1), "the windows that it has weights for"
    assert model.dtype == torch.bfloat16
    assert auto.saved_model_name(folder) == "molmo"
    assert auto.config_for_video(plain.config).replace(max_frames=5) == model.config, "a configuration alone"
    assert auto.config_for_video(model.config) is model.config
    fixed = auto.from_pretrained(folder, for_video=True, overrides=["frame_resolution=28"])
    assert fixed.config.frame_resolution == 28, "what is asked for wins"


def test_a_video_model_stays_as_it_is_set(make_config, tmp_path):
    VideoOlmo(VideoOlmoConfig.from_molmo(make_config(), max_frames=4)).save_checkpoint(tmp_path)
    assert auto.saved_model_name(tmp_path) == "video_olmo"
    for for_video in (False, True):
        model = auto.from_pretrained(tmp_path, for_video=for_video)
        assert isinstance(model, VideoOlmo)
        assert (model.config.max_frames, model.config.frame_resolution) == (4, None)


@pytest.mark.parametrize("for_video", [False, True])
def test_a_folder_without_a_model_says_so(tmp_path, for_video):
    with pytest.raises(OLMoCheckpointError, match=r"neither config\.yaml"):
        auto.from_pretrained(tmp_path, for_video=for_video)

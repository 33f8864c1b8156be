"""`VideoOlmoConfig`: documented defaults, values that cannot be meant, files."""

from __future__ import annotations

import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.models.auto import load_config, model_class
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import preset
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig


def test_p40_defaults_and_inheritance(config):
    video = VideoOlmoConfig(
        llm=config.llm, vision_backbone=config.vision_backbone, mm_preprocessor=config.mm_preprocessor
    )
    assert issubclass(VideoOlmoConfig, MolmoConfig)
    assert video.max_frames == 16
    assert video.frame_sampling == "uniform"
    assert video.pooling_h == video.pooling_w == 3
    assert model_class("video_olmo") is VideoOlmo


@pytest.mark.parametrize("max_frames", [1, 3, 4, 16, 64, 200])
def test_p40_frame_counts_from_4_to_64_and_others_are_taken(make_video_config, max_frames):
    assert make_video_config(max_frames=max_frames).video_spec.n_frames == max_frames


@pytest.mark.parametrize("name", ["uniform", "random", "adaptive"])
def test_p40_the_documented_strategies(make_video_config, name):
    assert make_video_config(frame_sampling=name).video_spec.sampling == name


BAD = {
    "max_frames": ({"max_frames": 0}, "max_frames: must be at least 1, got 0"),
    "sampling": ({"frame_sampling": "fps"}, "frame_sampling.*'uniform', 'random', 'adaptive'"),
    "seed": ({"frame_sampling_seed": -1}, "frame_sampling_seed"),
    "rate": ({"max_fps": 0.0}, "max_fps: must be above 0"),
    "resolution": ({"frame_resolution": 30}, "multiple of the patch of 14 px from 14 to 56, got 30"),
    "large resolution": ({"frame_resolution": 70}, "from 14 to 56, got 70"),
    "resolution word": ({"frame_resolution": "high"}, "'auto' or null, got 'high'"),
    "stride alone": ({"temporal_stride": 2}, "takes mean or attention"),
    "mean alone": ({"temporal_aggregation": "mean"}, "stride of 2 or more"),
    "no candidates": ({"frame_selection": "query"}, "candidate_frames: must be at least max_frames=16"),
    "candidates alone": ({"candidate_frames": 32}, "goes with frame_selection=query"),
    "query and stride": (
        {"frame_selection": "query", "candidate_frames": 32, "temporal_aggregation": "mean", "temporal_stride": 2},
        "cannot be combined",
    ),
    "query and fine frames": (
        {"frame_selection": "query", "candidate_frames": 32, "high_res_every": 2},
        "query_resolution or null",
    ),
    "no fine frames": ({"frame_selection": "query_resolution"}, "takes high_res_every"),
    "subtitles": ({"subtitle_mode": "some"}, "subtitle_mode.*some"),
    "fixed windows": (
        {"vision_backbone__image_pooling_2d": "stack", "pooling_h": 3},
        "weights for windows of 2x2 only",
    ),
}


@pytest.mark.parametrize(("fields", "match"), BAD.values(), ids=BAD)
def test_values_that_cannot_be_meant(make_video_config, fields, match):
    with pytest.raises(OLMoConfigurationError, match=match):
        make_video_config(**fields)


def test_a_file_gives_the_same_configuration(make_video_config, tmp_path):
    config = make_video_config(max_frames=4, frame_resolution="auto", time_embedding=True, high_res_every=3)
    config.save(tmp_path)
    assert load_config(tmp_path) == config.replace(llm=load_config(tmp_path).llm)
    assert MolmoConfig.load(tmp_path).max_frames == 4
    assert VideoOlmoConfig.load(tmp_path, ["frame_resolution=28"]).frame_resolution == 28


def test_text_alone_needs_no_frames(make_video_config):
    config = VideoOlmoConfig.from_molmo(MolmoConfig.new(llm=make_video_config().llm, vision_backbone=None))
    assert config.index_width == 0


def test_the_7b_preset_has_the_parts_of_molmo_7b_d():
    video, molmo = preset("videoolmo-7b"), preset("molmo-7b-d")
    assert isinstance(video, VideoOlmoConfig)
    assert (video.llm, video.vision_backbone, video.mm_preprocessor) == (
        molmo.llm, molmo.vision_backbone, molmo.mm_preprocessor,
    )  # fmt: skip

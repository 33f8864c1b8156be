"""The cost of a video before it is run, against what is then run."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from video_clips import prepared, video

from olmo.exceptions import OLMoInputError
from olmo.models.presets import preset
from olmo.models.video_olmo.budget import video_budget


def test_p43_the_released_sizes():
    """A7: 24 patches a side pooled 3 x 3 are 64 tokens, and 8 column, 2 marks and the time."""
    config = preset("videoolmo-7b")
    cost = video_budget(config, 1000, n_text_tokens=100, n_time_tokens=6)
    assert cost.n_frames == 16
    assert cost.n_tokens == 1 + 100 + 16 * (64 + 8 + 2 + 6)
    with pytest.raises(OLMoInputError, match=r"64 frames of 336 px take 5,120 tokens.*pooling_h=4"):
        video_budget(config.replace(max_frames=64), 1000, n_text_tokens=100, n_time_tokens=6)


@pytest.mark.parametrize("side", [56, 28])
def test_p52_tokens_and_operations_are_those_of_the_run(make_video_model, side):
    model = make_video_model(max_frames=4, frame_resolution=side, vision_backbone__image_padding_embed=None)
    inputs = prepared(model, video(4), "?")
    n_text = len(" User: ? Assistant:")
    cost = video_budget(model.config, 4, n_text_tokens=n_text, n_time_tokens=4)
    assert cost.n_tokens == len(inputs["input_ids"])
    assert cost.resolution == side
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), math:
        model(**inputs, logits_at="last")
    assert counter.get_total_flops() == pytest.approx(cost.flops.total, rel=0.02)


def test_p52_halving_the_side_quarters_the_encoder(make_video_config):
    whole = video_budget(make_video_config(max_frames=4), 4, n_text_tokens=9)
    half = video_budget(make_video_config(max_frames=4, frame_resolution=28), 4, n_text_tokens=9)
    assert half.n_tokens < whole.n_tokens
    assert half.flops.vit < 0.3 * whole.flops.vit
    assert half.flops.total < whole.flops.total


def test_auto_says_the_size_it_takes(make_video_config):
    config = make_video_config(max_frames=20, frame_resolution="auto", pooling_h=1, pooling_w=1)
    assert video_budget(config, 20, n_text_tokens=30, n_time_tokens=5).resolution == 14


def test_a_text_model_has_no_video(make_video_config):
    config = make_video_config()
    with pytest.raises(OLMoInputError, match="text only"):
        video_budget(config.replace(vision_backbone=None), 4, n_text_tokens=9)

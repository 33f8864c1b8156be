"""The tokens of frames, and how many there are."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import ImageTokenIds
from olmo.preprocessing.video.frame_budget import count_frame_tokens, frame_grid
from olmo.preprocessing.video.frame_tokens import block_length, time_texts, video_layout
from olmo.preprocessing.video.video_spec import TimeMode, VideoSpec

IDS = ImageTokenIds(start=1, end=2, patch=3, col=4)
IMAGE = ImageSpec(image_size=378, patch_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_time_texts():
    seconds = [0.0, 1.04, 12.26]
    assert time_texts(seconds, TimeMode.per_frame_compact) == ["0.0 ", "1.0 ", "12.3 "]
    assert time_texts(seconds, TimeMode.per_frame) == ["time 0.00 ", " time 1.04 ", " time 12.26 "]
    assert time_texts([0.0, 0.5, 1.0], TimeMode.fps_prefix) == ["FPS 2.00 ", "", ""]
    assert time_texts([0.0, 0.5, 1.0], TimeMode.delta_prefix) == ["Sampling Delta 0.50 ", "", ""]
    assert time_texts(seconds, TimeMode.none) == ["", "", ""]


@pytest.mark.parametrize("mode", [TimeMode.fps_prefix, TimeMode.delta_prefix])
def test_a_single_frame_has_no_rate(mode):
    assert time_texts([3.0], mode) == [""]


def test_a_layout_by_hand():
    spec = VideoSpec(n_frames=2, pool_h=3, pool_w=3, high_res_every=2, high_res_pool=2, index_width=5)
    layout = video_layout(np.array([0.0, 1.5]), [[9], [8, 7]], 4, spec, True, IDS)
    block = [1, 3, 3, 4, 3, 3, 4, 2]  # 4 patches a side are 2 windows of 3 as well as of 2
    assert layout.token_ids.tolist() == [9, *block, 8, 7, *block]
    assert layout.input_idx.tolist() == [[2, 3, 5, 6, -100], [12, 13, 15, 16, -100]]
    assert layout.facts.tolist() == [[0.0, 4, 2, 2], [1.5, 4, 3, 3]]
    plain = video_layout(np.array([0.0, 1.5]), [[9], []], 4, spec, False, IDS)
    assert plain.token_ids.tolist() == [9, 1, 3, 3, 3, 3, 2, 1, 3, 3, 3, 3, 2]


def test_frames_that_share_tokens_have_the_same_places():
    spec = VideoSpec(n_frames=3, pool_h=4, pool_w=4, stride=2, index_width=1)
    layout = video_layout(np.array([0.0, 1.0, 2.0]), [[], []], 4, spec, True, IDS)
    assert layout.input_idx.tolist() == [[1], [1], [5]]
    assert layout.facts[:, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("grid", "pool", "n_patches"), [(27, 3, 81), (27, 2, 196), (27, 9, 9), (24, 2, 144), (24, 3, 64), (27, 4, 49)]
)
def test_tokens_of_published_frames(grid, pool, n_patches):
    side = int(n_patches**0.5)
    assert block_length(grid, (pool, pool), False) == n_patches + 2
    assert block_length(grid, (pool, pool), True) == n_patches + side + 2


def spec(**fields) -> VideoSpec:
    return VideoSpec(**{"n_frames": 64, **fields})


def test_64_frames_do_not_fit_4096_tokens_and_what_is_named_does():
    times = [7] * 64
    with pytest.raises(OLMoInputError) as error:
        frame_grid(64, spec(), IMAGE, False, times, 4000)
    message = str(error.value)
    assert (
        "64 frames of 378 px take 5,760 tokens with their times (3x3 pooling), but the context has room for" in message
    )
    for way in ("max_frames=44", "temporal_stride=2", "pooling_h=4 and pooling_w=4", "frame_resolution=294"):
        assert way in message
    assert (
        count_frame_tokens(44, 27, spec(), False, [7] * 44)
        <= 4000
        < count_frame_tokens(45, 27, spec(), False, [7] * 45)
    )
    assert frame_grid(64, spec(pool_h=4, pool_w=4), IMAGE, False, times, 4000) == 27
    assert frame_grid(64, spec(resolution=294), IMAGE, False, times, 4000) == 21
    assert frame_grid(64, spec(stride=2), IMAGE, False, times[:32], 4000) == 27
    assert frame_grid(64, spec(resolution="auto"), IMAGE, False, times, 4000) == 21
    assert frame_grid(64, spec(), IMAGE, False, times, None) == 27


def test_only_kept_blocks_count():
    assert count_frame_tokens(64, 27, spec(n_kept=4), False, [5] * 60 + [7] * 4) == 4 * (81 + 2 + 7)
    with pytest.raises(OLMoInputError, match="max_frames=2"):
        frame_grid(64, spec(n_kept=4), IMAGE, False, [7] * 64, 200)

"""Frames that are kept from question to question: encoded once, answered alike, never joined ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import close
from video_clips import prepared, video

from olmo.models.feature_cache import FeatureCache
from olmo.models.video_olmo.video_olmo import VideoOlmo


@pytest.fixture
def keep() -> Iterator[Any]:
    """Gives a model a cache, and takes it away again."""
    given: list[VideoOlmo] = []

    def to(model: VideoOlmo) -> FeatureCache:
        given.append(model)
        model.feature_cache = FeatureCache()
        return model.feature_cache

    yield to
    for model in given:
        model.feature_cache = None


@torch.no_grad()
def test_a_second_question_encodes_no_frame(make_video_model, keep):
    model = make_video_model(max_frames=4, time_embedding=True)
    first, second = (prepared(model, video(4), question) for question in ("what?", "and then?"))
    plain = model(**second).logits
    cache = keep(model)
    model(**first)
    assert (cache.n_made, cache.n_found) == (4, 0)
    close(model(**second).logits, plain)
    assert (cache.n_made, cache.n_found) == (4, 4)


@torch.no_grad()
def test_a_frame_at_another_time_is_another_frame(make_video_model, keep):
    model = make_video_model(max_frames=4, time_embedding=True)
    inputs = prepared(model, video(4))
    later = {**inputs, "frame_facts": inputs["frame_facts"] + torch.tensor([1.0, 0.0, 0.0, 0.0])}
    cache = keep(model)
    model(**inputs)
    model(**later)
    assert (cache.n_made, cache.n_found) == (8, 0)


@torch.no_grad()
def test_joined_frames_are_not_kept(make_video_model, keep):
    model = make_video_model(max_frames=4, temporal_aggregation="mean", temporal_stride=2)
    cache = keep(model)
    model(**prepared(model, video(4)))
    assert (cache.n_made, cache.n_found) == (0, 0)

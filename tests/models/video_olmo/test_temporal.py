"""Time: in the prompt, in the order of frames, in the attention of the language model, and where frames are joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import close
from video_clips import asked, prepared, video

from olmo.exceptions import OLMoInputError
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.preprocessing.video.open_video import open_video


def text_of(model: VideoOlmo, inputs) -> str:
    return model.tokenizer.decode([i for i in inputs["input_ids"].tolist() if i < 256])


@pytest.mark.parametrize("mode", ["per_frame_compact", "per_frame"])
def test_p45_times_in_the_prompt_are_those_of_the_frames(make_video_model, mode):
    seconds = [0.0, 0.04, 1.37, 2.0, 7.251]
    frames = np.zeros((5, 56, 56, 3), np.uint8)
    model = make_video_model(max_frames=5, time_mode=mode, llm__max_sequence_length=512)
    text = text_of(model, prepared(model, open_video(frames, seconds=seconds)))
    written = [float(word) for word in text.split(" User:")[0].replace("time", " ").split()]
    np.testing.assert_allclose(written, seconds, atol=0.0501)


@torch.no_grad()
def test_p45_the_order_of_frames_changes_the_logits(make_video_model):
    model = make_video_model(max_frames=4)
    inputs = prepared(model, video(4))
    swapped = {**inputs, "images": inputs["images"].flip(0)}
    assert (model(**inputs).logits[:, -1] - model(**swapped).logits[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", [None, "image_tokens", "within_image"])
@torch.no_grad()
def test_p47_the_language_model_attends_over_time(make_video_model, mode):
    model = make_video_model(max_frames=4, bi_directional_attn=mode) if mode else make_video_model(max_frames=4)
    inputs = prepared(model, video(4))
    places = inputs["image_input_idx"]

    def changes(frame: int) -> list[bool]:
        images = inputs["images"].clone()
        images[frame] += 1.0
        before = model(**inputs, output_hidden_states=True).hidden_states[-1, 0]
        after = model(**{**inputs, "images": images}, output_hidden_states=True).hidden_states[-1, 0]
        return [bool((before - after)[places[t]].abs().max() > 1e-5) for t in range(4)]

    assert changes(1) == ([True] * 4 if mode == "image_tokens" else [False, True, True, True])
    assert changes(3) == ([True] * 4 if mode == "image_tokens" else [False, False, False, True])


@pytest.mark.parametrize("kind", ["mean", "attention"])
@torch.no_grad()
def test_p48_joining_two_frames_halves_the_tokens(make_video_model, kind):
    plain = prepared(make_video_model(max_frames=8), video(8), "?")
    model = make_video_model(max_frames=8, temporal_aggregation=kind, temporal_stride=2)
    joined = prepared(model, video(8), "?")
    n_patches = [int((inputs["input_ids"] == 262).sum()) for inputs in (plain, joined)]
    assert n_patches == [32, 16]
    assert joined["images"].shape[0] == 8
    assert text_of(model, joined).startswith("0.0 2.0 4.0 6.0 ")  # the first frame of each pair
    assert model(**joined).logits.shape[1] == len(joined["input_ids"])


@torch.no_grad()
def test_p48_a_constant_video_is_joined_to_itself(make_video_model):
    frames = open_video(np.full((7, 56, 56, 3), 90, np.uint8), fps=1.0)
    for kind in ("mean", "attention"):
        model = make_video_model(max_frames=7, temporal_aggregation=kind, temporal_stride=3)
        if model.temporal_attention is not None:
            model.temporal_attention.gain.fill_(3.0)
        inputs = prepared(model, frames)
        pictures = model.read_pictures(
            inputs["input_ids"][None], (inputs["images"], inputs["image_masks"], inputs["image_input_idx"]),
            frame_facts=inputs["frame_facts"],
        )  # fmt: skip
        joined = model.encode_images(pictures)
        single = model.vision_backbone(pictures.images, pictures.image_masks, (2, 2))
        assert joined.abs().amax(dim=(1, 2)).gt(0).tolist() == [True, False, False, True, False, False, True]
        for first in (0, 3, 6):
            close(joined[first], single[first])


def test_p48_the_mean_is_the_mean_and_attention_learns(make_video_config):
    model = VideoOlmo(make_video_config(max_frames=4, temporal_aggregation="attention", temporal_stride=2))
    mean = VideoOlmo(make_video_config(max_frames=4, temporal_aggregation="mean", temporal_stride=2))
    mean.load_state_dict(model.state_dict(), strict=False)
    inputs = prepared(model, video(4))
    close(model(**inputs).logits, mean(**inputs).logits)
    torch.nn.init.ones_(model.temporal_attention.gain)
    example = model.config.build_preprocessor(for_inference=False)(asked(video(4), answer="yes"))
    model(**example).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.temporal_attention.parameters())


def test_joined_frames_need_their_index(make_video_model):
    model = make_video_model(max_frames=4, temporal_aggregation="mean", temporal_stride=2)
    inputs = prepared(model, video(4))
    with pytest.raises(OLMoInputError, match="several frames share a block"):
        model(inputs["input_ids"], inputs["images"])


def test_the_time_embedding_starts_at_nothing_and_learns(make_video_config):
    plain, timed = VideoOlmo(make_video_config(max_frames=4)), VideoOlmo(make_video_config(time_embedding=True))
    inputs = prepared(plain, video(4))
    assert torch.equal(plain(**inputs).logits, timed(**inputs).logits)
    timed(**inputs).logits.square().sum().backward()
    assert timed.time_embedding.gain.grad.abs().sum() > 0
    torch.nn.init.ones_(timed.time_embedding.gain)
    later = {**inputs, "frame_facts": inputs["frame_facts"] + torch.tensor([5.0, 0, 0, 0])}
    assert not torch.equal(timed(**inputs).logits, timed(**later).logits)
    with pytest.raises(OLMoInputError, match="pass frame_facts"):
        timed(inputs["input_ids"], inputs["images"])

"""`VideoPreprocessor`: videos as examples, their tensors, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.collator import MMCollator
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.packed import pack_examples
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import FrameSampling
from olmo.preprocessing.video.subtitles import Subtitle
from olmo.preprocessing.video.video_preprocessor import VideoPreprocessor
from olmo.preprocessing.video.video_spec import VideoSpec

IMAGE = ImageSpec(image_size=56, patch_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def make(byte_tokenizer):
    """`make(is_training=True, n_frames=4)`: a preprocessor; fields of `VideoSpec` and options of `Preprocessor`."""

    def made(for_inference: bool = True, max_seq_len: int | None = None, **fields: Any) -> VideoPreprocessor:
        spec = VideoSpec(**{"n_frames": 4, "pool_h": 2, "pool_w": 2, "index_width": 4, **fields})
        return VideoPreprocessor(
            video_spec=spec, tokenizer=byte_tokenizer, formatter=DataFormatter(),
            config=MolmoPreprocessorConfig(overlap_margins=[2, 0], max_crops=4), image_spec=IMAGE,
            for_inference=for_inference, max_seq_len=max_seq_len,
        )  # fmt: skip

    return made


def clip(n: int = 8, size: tuple[int, int] = (40, 60)) -> Any:
    """Frame i has the brightness 10 i, one a second."""
    return open_video(np.stack([np.full((*size, 3), 10 * i % 256, np.uint8) for i in range(n)]), fps=1.0)


def text_of(byte_tokenizer, inputs) -> str:
    return byte_tokenizer.decode([i for i in inputs["input_ids"].tolist() if i < 256])


def test_a_video_becomes_frames_with_times(make, byte_tokenizer):
    inputs = make()({"video": clip(), "prompt": "what?"})
    assert text_of(byte_tokenizer, inputs) == "0.0 2.0 5.0 7.0  User: what? Assistant:"
    assert inputs["images"].shape == (4, 3, 56, 56)
    assert inputs["frame_facts"].tolist() == [[t, 4, 2, 2] for t in (0, 2, 5, 7)]
    ids = inputs["input_ids"]
    assert (ids[inputs["image_input_idx"]] == byte_tokenizer.im_patch_id).all()
    assert inputs["metadata"] == {"style": None, "image_sizes": [(60, 40)], "frame_seconds": [[0.0, 2.0, 5.0, 7.0]]}
    middle = inputs["images"][:, 0, 28, 28] * 0.5 + 0.5
    np.testing.assert_allclose(middle * 255, [0, 20, 50, 70], atol=0.01)
    assert inputs["image_masks"][0].reshape(4, 4)[0].max() < 1  # 40 x 60 in a square has padding above and below


def test_the_forms_of_an_example(make):
    preprocess = make()
    wanted = preprocess({"video": clip(), "prompt": "what?"})["input_ids"]
    part = {"type": "video", "video": clip()}
    text = {"type": "text", "text": "what?"}
    for example in (
        {"videos": [clip()], "prompt": "what?"},
        {"messages": [{"role": "user", "content": [part, text]}]},
        {"video": clip(), "messages": [{"role": "user", "content": [{"type": "video"}, text]}]},
    ):
        assert torch.equal(preprocess(example)["input_ids"], wanted)


def test_two_videos_follow_one_another(make, byte_tokenizer):
    inputs = make()({"videos": [clip(2), clip(3)], "prompt": "what?"})
    assert text_of(byte_tokenizer, inputs).startswith("0.0 1.0 0.0 1.0 2.0 ")
    assert len(inputs["images"]) == 5
    assert (inputs["input_ids"][inputs["image_input_idx"]] == byte_tokenizer.im_patch_id).all()


def test_a_part_of_a_video_has_its_own_times(make, byte_tokenizer):
    inputs = make()({"video": clip(), "start_s": 3.0, "end_s": 5.0, "prompt": "what?"})
    assert text_of(byte_tokenizer, inputs).startswith("0.0 1.0  User")


def test_pictures_go_the_way_of_a_molmo(make):
    inputs = make(index_width=16)({"image": np.zeros((60, 100, 3), np.uint8), "prompt": "what?"})
    assert inputs["image_input_idx"].shape[1] == 16
    assert inputs["frame_facts"][:, 0].tolist() == [-1.0] * len(inputs["images"])


def test_random_frames_are_drawn_anew_in_training_only(make):
    preprocess = make(for_inference=False, sampling=FrameSampling.random)
    example = {"video": clip(100, (20, 20)), "prompt": "what?", "answer": "that"}

    def times(rng):
        return preprocess(example, rng)["frame_facts"][:, 0].tolist()

    drawn = [times(np.random.default_rng([0, epoch])) for epoch in range(4)]
    assert len({tuple(t) for t in drawn}) > 1
    assert times(np.random.default_rng([0, 2])) == drawn[2]
    assert times(None) == times(None)


def test_labels_are_on_answers_alone(make):
    inputs = make(for_inference=False)({"video": clip(), "prompt": "what?", "answer": "that"})
    assert (inputs["labels"] >= 0).sum() == len(" that") + 1
    assert (inputs["labels"][: int(inputs["image_input_idx"].max())] == -100).all()


def test_smaller_frames_and_pictures_share_a_batch(make):
    preprocess = make(resolution=28)
    small, picture = (
        preprocess({"video": clip(), "prompt": "a"}),
        preprocess({"image": np.zeros((56, 56, 3), np.uint8), "prompt": "b"}),
    )
    assert small["images"].shape == (4, 3, 28, 28)
    assert small["image_masks"].shape == (4, 16)
    assert (small["image_masks"][:, 4:] == -1).all()
    batch = MMCollator(None)([small, picture])
    assert batch["images"].shape == (2, 4, 3, 56, 56)
    assert torch.equal(batch["images"][0, :, :, :28, :28], small["images"])
    assert (batch["images"][0, :, :, 28:] == -1).all()
    assert batch["frame_facts"].shape == (2, 4, 4)
    packed = pack_examples([small, picture])
    assert packed["images"].shape[1:] == (3, 56, 56)
    assert packed["frame_facts"].shape == (6, 4)


def test_subtitles_stand_behind_the_video(make, byte_tokenizer):
    lines = [Subtitle(0.5, 1.0, "hello"), Subtitle(6.0, 6.5, "bye")]
    example = {"video": clip(), "subtitles": lines, "prompt": "what?"}
    assert "7.0 \nsubtitles\n0.5 - 1.0 hello\n6.0 - 6.5 bye\n User" in text_of(byte_tokenizer, make()(example))
    near = text_of(byte_tokenizer, make(subtitle_mode="frame_0.5")(example))
    assert "bye" in near and "hello" in near
    first = text_of(byte_tokenizer, make(subtitle_mode="truncate_1")(example))
    assert "hello" in first and "bye" not in first
    assert "subtitles" not in text_of(byte_tokenizer, make(subtitle_mode="ignore")(example))
    part = text_of(byte_tokenizer, make()({**example, "start_s": 2.0}))
    assert "4.0 - 4.5 bye" in part and "hello" not in part


def test_what_does_not_fit_is_explained_before_anything_runs(make):
    with pytest.raises(OLMoInputError, match=r"4 frames of 56 px take 48 tokens.*room for 19; to fit, set max_frames"):
        make(max_seq_len=40)({"video": clip(), "prompt": "hm"})
    cut = make(for_inference=False, max_seq_len=70)({"video": clip(), "prompt": "what?", "answer": "that" * 30})
    assert len(cut["input_ids"]) == 70


BAD = [
    ({"video": 1, "videos": [2], "prompt": "x"}, "not both"),
    ({"videos": 3, "prompt": "x"}, "'videos' is a list"),
    ({"video": clip(), "image": np.zeros((9, 9, 3), np.uint8), "prompt": "x"}, "pictures or a video, not both"),
    ({"start_s": 1.0, "prompt": "x"}, "'start_s' is a time in a video"),
    ({"video": clip(), "start_s": -1.0, "prompt": "x"}, "0 or later"),
    ({"video": clip(), "start_s": 90.0, "prompt": "x"}, "no frame from 90 s"),
    ({"subtitles": "a.srt", "prompt": "x"}, "belong to one video"),
    ({"video": np.zeros((0, 9, 9, 3), np.uint8), "prompt": "x"}, "at least one"),
    ({"message_list": [{"video": clip(), "prompt": "x"}]}, "share the example's pictures"),
    (
        {"messages": [{"role": "user", "content": [{"type": "video", "url": "http://x"}]}]},
        "not fetched from the network",
    ),
]


@pytest.mark.parametrize(("example", "match"), BAD)
def test_examples_that_cannot_be_meant(make, example, match):
    with pytest.raises(OLMoInputError, match=match):
        make()(example)


def test_a_model_without_eyes_refuses_videos(byte_tokenizer):
    preprocess = VideoPreprocessor(
        video_spec=VideoSpec(n_frames=2), tokenizer=byte_tokenizer, formatter=DataFormatter(),
        config=MolmoPreprocessorConfig(), image_spec=None, for_inference=True,
    )  # fmt: skip
    with pytest.raises(OLMoInputError, match="text-only"):
        preprocess({"video": clip(), "prompt": "x"})


def test_frames_can_be_kept(byte_tokenizer):
    preprocess = VideoPreprocessor(
        video_spec=VideoSpec(n_frames=2, index_width=4), tokenizer=byte_tokenizer, formatter=DataFormatter(),
        config=MolmoPreprocessorConfig(), image_spec=IMAGE, for_inference=True, include_image=True,
    )  # fmt: skip
    kept = preprocess({"video": clip(), "prompt": "x"})["metadata"]["images"]
    assert [int(frame[0, 0, 0]) for frame in kept] == [0, 70]

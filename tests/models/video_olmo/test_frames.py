"""Frames in forward and generate: counts, independence, batches, memory, resolution; and pictures as in a Molmo."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import close, example, picture
from video_clips import asked, prepared, video

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.models.picture_inputs import PictureInputs
from olmo.models.video_olmo.video_olmo import VideoOlmo


def pictures_of(model: VideoOlmo, inputs) -> PictureInputs:
    given = (inputs["images"], inputs["image_masks"], inputs["image_input_idx"])
    return model.read_pictures(inputs["input_ids"][None], given, frame_facts=inputs["frame_facts"])


@pytest.mark.parametrize("max_frames", [1, 4, 16, 64])
@pytest.mark.parametrize("n_frames", [1, 3, 16, 100])
@torch.no_grad()
def test_p43_any_number_of_frames_takes_the_tokens_of_the_formula(make_video_model, max_frames, n_frames):
    model = make_video_model(max_frames=max_frames, pooling_h=3, pooling_w=3, llm__max_sequence_length=2048)
    inputs = prepared(model, video(n_frames))
    m = min(max_frames, n_frames)
    times = inputs["frame_facts"][:, 0].tolist()
    side = math.ceil(4 / 3)
    expected = 1 + sum(side * (side + 1) + 2 + len(f"{t:.1f} ") for t in times) + len(" User: what? Assistant:")
    assert len(times) == m
    assert len(inputs["input_ids"]) == expected
    assert model(**inputs).logits.shape == (1, expected, 260)
    assert len(model.generate(**inputs, max_new_tokens=2).text) == 1


def test_p43_too_many_frames_for_the_context_are_explained(make_video_model):
    model = make_video_model(max_frames=64, llm__max_sequence_length=600)
    with pytest.raises(OLMoInputError, match="64 frames of 56 px take 825 tokens") as error:
        prepared(model, video(100))
    for way in ("max_frames=", "temporal_stride=", "pooling_h=", "larger max_seq_len"):
        assert way in str(error.value)


@torch.no_grad()
def test_p43_what_the_error_says_does_fit(make_video_model):
    named = re.findall(r"max[_-]frames[ =](\d+)", _error_of(make_video_model(max_frames=64)))
    assert len(named) == 2 and named[0] == named[1], "as a field and as an option"
    fitting = int(named[0])
    assert prepared(make_video_model(max_frames=fitting), video(100))["images"].shape[0] == fitting
    stride = int(_error_of(make_video_model(max_frames=64)).split("temporal_stride=")[1].split(",")[0])
    joined = make_video_model(max_frames=64, temporal_aggregation="mean", temporal_stride=stride)
    assert prepared(joined, video(100))["images"].shape[0] == 64


def _error_of(model: VideoOlmo) -> str:
    with pytest.raises(OLMoInputError) as error:
        prepared(model, video(100))
    return str(error.value)


@torch.no_grad()
def test_p46_frames_are_encoded_independently(make_video_model):
    model = make_video_model(max_frames=6, pooling_h=3, pooling_w=3, high_res_every=3)
    pictures = pictures_of(model, prepared(model, video(6)))
    together = model.encode_images(pictures)
    for frame in range(6):
        part = PictureInputs(
            *(getattr(pictures, name)[frame : frame + 1] for name in PictureInputs.__dataclass_fields__)
        )
        close(model.encode_images(part)[0], together[frame])
    order = torch.randperm(6)
    permuted = PictureInputs(*(getattr(pictures, name)[order] for name in PictureInputs.__dataclass_fields__))
    close(model.encode_images(permuted), together[order])


def test_p46_the_number_of_parameters_does_not_depend_on_frames(make_video_model):
    assert make_video_model(max_frames=1).num_params() == make_video_model(max_frames=64).num_params()


@torch.no_grad()
def test_p49_forward_takes_frames_and_each_one_counts(make_video_model):
    model = make_video_model(max_frames=5)
    inputs = prepared(model, video(5))
    images = inputs["images"][None]
    assert images.shape == (1, 5, 3, 56, 56)
    whole = model(inputs["input_ids"][None], images).logits
    close(whole, model(**inputs).logits)
    for frame in range(5):
        changed = images.clone()
        changed[:, frame] = 0.0
        assert (model(inputs["input_ids"][None], changed).logits[:, -1] - whole[:, -1]).abs().max() > 1e-4


@torch.no_grad()
def test_p49_a_batch_of_videos_pictures_and_text_equals_each_alone(make_video_model):
    model = make_video_model(max_frames=4, frame_resolution=28, pooling_h=1, pooling_w=1)
    preprocess = model.config.build_preprocessor(for_inference=True)
    examples = [preprocess(e) for e in (
        asked(video(9)), example("a picture", picture(60, 100)), example("text"), asked(video(2, seed=1), "which?"),
    )]  # fmt: skip
    batch = model.config.build_collator()(examples)
    assert batch["images"].shape[-1] == 56  # the canvas of the picture; frames of 28 px lie in a corner of it
    logits = model(**batch).logits
    texts = model.generate(**batch, max_new_tokens=4).text
    for row, alone in enumerate(examples):
        close(logits[row, : len(alone["input_ids"])], model(**alone).logits[0])
        assert model.generate(**alone, max_new_tokens=4).text == [texts[row]]


@torch.no_grad()
def test_on_pictures_it_is_the_molmo_bit_for_bit(make_video_model, inputs):
    video_model = make_video_model(pooling_h=3, pooling_w=3)
    molmo = Molmo(Molmo.config_class.new(**{
        k: v for k, v in video_model.config.asdict().items() if k in Molmo.config_class.__dataclass_fields__
    })).eval()  # fmt: skip
    molmo.load_state_dict(video_model.state_dict())
    molmo.config.source_dir = video_model.config.source_dir
    own = video_model.config.build_preprocessor(for_inference=True)(example("what is it?", picture(60, 100)))
    assert torch.equal(own["input_ids"], inputs["input_ids"])
    expected = molmo(**inputs).logits
    assert torch.equal(video_model(**own).logits, expected)
    assert torch.equal(video_model(**inputs).logits, expected)  # the tensors of a Molmo's preprocessor
    assert torch.equal(video_model(inputs["input_ids"], inputs["images"], inputs["image_masks"]).logits, expected)


def test_packed_videos_equal_separate_ones(make_video_model):
    model = make_video_model(max_frames=3)
    preprocess = model.config.build_preprocessor(for_inference=False)
    examples = [preprocess(asked(video(5, seed=s), "what?", "that")) for s in range(2)]
    collate = model.config.build_collator()
    packed, separate = collate([examples]), collate(examples)
    close(model(**packed).loss, model(**separate).loss)


def gradients(model: VideoOlmo, inputs) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of the loss, and bytes saved while frames are encoded."""
    model.zero_grad()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    n_bytes = 0

    def pack(saved: torch.Tensor) -> torch.Tensor:
        nonlocal n_bytes
        if saved.untyped_storage().data_ptr() not in weights:
            n_bytes += saved.numel() * saved.element_size()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        features = model.encode_images(pictures_of(model, inputs))
    features.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, n_bytes


def test_p50_checkpointing_keeps_gradients_and_saves_memory(make_video_config):
    options = {"max_frames": 8, "vision_backbone__vit__n_layers": 4, "vision_backbone__vit_layers": [-1, -3]}
    plain = VideoOlmo(make_video_config(checkpoint_frames=False, **options))
    saving = VideoOlmo(make_video_config(**options))
    inputs = prepared(plain, video(8))
    (wanted, plain_bytes), (found, saved_bytes) = gradients(plain, inputs), gradients(saving, inputs)
    assert wanted.keys() == found.keys() and wanted
    for name, gradient in wanted.items():
        close(found[name], gradient)
    assert saved_bytes <= 0.5 * plain_bytes


def test_p51_frames_in_batches_are_equal_and_bound_what_is_alive(make_video_config):
    largest = {}
    features = {}
    for size in (None, 1, 2, 5):
        model = VideoOlmo(make_video_config(max_frames=16, frame_batch_size=size))
        seen: list[int] = []
        for block in model.vision_backbone.image_vit.blocks:
            block.register_forward_hook(lambda _, given, __, seen=seen: seen.append(len(given[0])))
        with torch.no_grad():
            features[size] = model.encode_images(pictures_of(model, prepared(model, video(16), "?")))
        largest[size] = max(seen)
    assert largest == {None: 16, 1: 1, 2: 2, 5: 5}
    for size in (1, 2, 5):
        close(features[size], features[None])


def peak_bytes(action: Callable[[], object]) -> int:
    """The most bytes that tensors held at one time, of those made by `action`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([n_bytes for _, n_bytes in changes]).max())


@torch.no_grad()
def test_p51_sixty_four_frames_in_batches_of_8_hold_two_fifths_of_the_memory(make_video_config):
    peaks = {}
    for size in (None, 8):
        model = VideoOlmo(make_video_config(max_frames=64, frame_batch_size=size, llm__max_sequence_length=2048))
        pictures = pictures_of(model, prepared(model, video(64), "?"))
        peaks[size] = peak_bytes(lambda model=model, pictures=pictures: model.encode_images(pictures))
    assert 0 < peaks[8] <= 0.4 * peaks[None]


@torch.no_grad()
def test_p52_smaller_frames_take_fewer_tokens(make_video_model):
    lengths = []
    for side in (56, 42, 28, 14):
        model = make_video_model(max_frames=4, frame_resolution=side, pooling_h=1, pooling_w=1)
        inputs = prepared(model, video(4))
        assert inputs["images"].shape[-1] == side
        model(**inputs)
        lengths.append(len(inputs["input_ids"]))
    grids = [side // 14 for side in (56, 42, 28, 14)]
    assert [lengths[0] - n for n in lengths] == [4 * (16 + 4 - g * g - g) for g in grids]


@pytest.mark.parametrize("max_frames", [4, 8, 16, 20])
@torch.no_grad()
def test_p52_auto_fits_the_context_with_room_for_an_answer(make_video_model, max_frames):
    model = make_video_model(max_frames=max_frames, frame_resolution="auto", pooling_h=1, pooling_w=1)
    inputs = prepared(model, video(100))
    assert len(inputs["images"]) == max_frames
    assert len(inputs["input_ids"]) <= 256 - 16
    model.generate(**inputs, max_new_tokens=2)


def test_p52_auto_gives_up_where_nothing_fits(make_video_model):
    with pytest.raises(OLMoInputError, match="64 frames of 14 px"):
        prepared(make_video_model(max_frames=64, frame_resolution="auto"), video(100))


def test_windows_that_do_not_divide_the_grid_leave_padding_out(make_video_model):
    """3 x 3 windows put evenly around 4 x 4 patches hold 2 x 2 patches each, and nothing attends to the rest."""
    connector = make_video_model().vision_backbone.connector
    features, mask = torch.randn(2, 16, 64), torch.ones(2, 16)
    close(connector(features, mask, (4, 4), (3, 3)), connector(features, mask, (4, 4), (2, 2)))
    assert not torch.allclose(connector(features, mask), connector(features.flip(1), mask))


@torch.no_grad()
def test_unpooled_pictures_have_averaged_frames(make_video_model):
    model = make_video_model(pooling_h=3, pooling_w=3, max_frames=2, vision_backbone__image_pooling_2d="none")
    connector = model.vision_backbone.connector
    features, mask = torch.randn(1, 16, 64), torch.ones(1, 16)
    means = features.view(1, 2, 2, 2, 2, 64).mean(dim=(2, 4)).view(1, 4, 64)
    close(connector(features, mask, (4, 4), (3, 3)), connector.image_projector(means))
    assert model(**prepared(model, video(2))).logits.isfinite().all()


BAD = {
    "facts": ({"frame_facts": torch.zeros(1, 2, 3)}, "frame_facts of shape .* wanted \\[1, 4, 4\\]"),
    "index": ({"image_input_idx": torch.zeros(1, 4, 9).long()}, "image_input_idx of shape"),
    "past the end": ({"image_input_idx": torch.full((1, 4, 4), 999)}, "position 999"),
    "size": ({"images": torch.zeros(1, 4, 3, 57, 57)}, "fit neither form"),
    "too few": ({"images": torch.zeros(1, 2, 3, 56, 56), "image_input_idx": None, "frame_facts": None,
                 "image_masks": None}, "tokens of 4 frames or crops, but images has 2"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), BAD.values(), ids=BAD)
def test_frames_that_cannot_be_meant(make_video_model, changes, match):
    model = make_video_model(max_frames=4)
    with pytest.raises(OLMoInputError, match=match):
        model(**{**prepared(model, video(4)), **changes})


def test_a_picture_model_says_who_reads_videos(preprocess):
    with pytest.raises(OLMoInputError, match="use a VideoOlmo model"):
        preprocess(asked(np.zeros((2, 56, 56, 3), np.uint8)))

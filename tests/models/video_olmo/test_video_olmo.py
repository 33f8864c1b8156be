"""`VideoOlmo` as a model: weights of a Molmo, checkpoints, training."""

from __future__ import annotations

import pytest
import torch
from tiny import close, write_tokenizer
from video_clips import asked, prepared, video

from olmo.exceptions import OLMoCheckpointError
from olmo.models import auto
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo

NEW = ["time_embedding=true", "temporal_aggregation=attention", "temporal_stride=2", "pooling_h=2", "pooling_w=2"]


@pytest.fixture(scope="module")
def molmo_folders(make_config, tmp_path_factory):
    """A Molmo in its native layout and in the released one."""
    folder = tmp_path_factory.mktemp("molmos")
    molmo = Molmo(make_config(), seed=3).eval()
    molmo.save_checkpoint(folder / "native")
    molmo.save_pretrained_hf(folder / "released")
    write_tokenizer(folder / "released")
    return molmo, folder


@pytest.mark.parametrize("layout", ["native", "released"])
@torch.no_grad()
def test_any_molmo_checkpoint_loads_unchanged(molmo_folders, inputs, layout):
    molmo, folder = molmo_folders
    model = VideoOlmo.from_pretrained(folder / layout, overrides=["max_frames=4"])
    assert model.config.max_frames == 4
    assert model.state_dict().keys() == molmo.state_dict().keys()
    for name, tensor in molmo.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert torch.equal(model(**inputs).logits, molmo(**inputs).logits)
    assert model.generate(**prepared(model, video(9)), max_new_tokens=3).text


@pytest.mark.parametrize("layout", ["native", "released"])
@torch.no_grad()
def test_new_parts_are_drawn_and_change_nothing_on_pictures(molmo_folders, inputs, layout):
    molmo, folder = molmo_folders
    model = VideoOlmo.from_pretrained(folder / layout, overrides=NEW)
    again = VideoOlmo.from_pretrained(folder / layout, overrides=NEW)
    assert torch.equal(model(**inputs).logits, molmo(**inputs).logits)
    assert model.time_embedding.projection.weight.std() == pytest.approx(0.02, rel=0.1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@torch.no_grad()
def test_a_checkpoint_comes_back_through_auto(make_video_config, tmp_path):
    config = make_video_config(max_frames=4, frame_selection="query", candidate_frames=8)
    model = VideoOlmo(config).eval()
    model.save_checkpoint(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert isinstance(loaded, VideoOlmo)
    inputs = prepared(model, video(8))
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    with pytest.raises(OLMoCheckpointError, match="no released layout for VideoOlmo"):
        model.save_pretrained_hf(tmp_path / "hf")


def test_a_seed_draws_what_a_molmo_draws(make_config, make_video_config):
    molmo, model = Molmo(make_config(), seed=7), VideoOlmo(make_video_config(time_embedding=True), seed=7)
    for name, parameter in molmo.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
    assert model.num_params() == sum(p.numel() for p in model.parameters())


def test_it_learns_one_video_by_heart(make_video_config):
    config = make_video_config(max_frames=4, llm__init_std=0.05)
    model = VideoOlmo(config).train()
    preprocess = config.build_preprocessor(for_inference=False)
    batch = config.build_collator()([preprocess(asked(video(4), "what?", "yes"))])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]
    assert model.generate(**prepared(model, video(4)), max_new_tokens=8).text == ["yes"]


def test_a_frozen_encoder_still_lets_the_connector_learn(make_video_config):
    model = VideoOlmo(make_video_config(max_frames=4))
    model.vision_backbone.image_vit.requires_grad_(False)
    model(**model.config.build_preprocessor(for_inference=False)(asked(video(4), "what?", "yes"))).loss.backward()
    assert all(p.grad is None for p in model.vision_backbone.image_vit.parameters())
    assert model.vision_backbone.connector.image_projector.w2.weight.grad.abs().sum() > 0


def test_a_batch_of_text_runs_the_encoder_on_nothing(make_video_config):
    """Where weights are sharded every process has to take part; see `olmo.train.parallel.empty_pictures`."""
    model = VideoOlmo(make_video_config())
    ids, seen = torch.tensor([[5, 6, 7]]), []
    model.vision_backbone.register_forward_hook(lambda *_: seen.append(1))
    out = model(
        ids,
        torch.zeros(1, 1, 16, 588),
        torch.full((1, 1, 16), -1.0),
        torch.full((1, 1, 4), -100),
        labels=ids,
    )
    out.loss.backward()
    assert seen == [1]
    close(out.logits, model(ids).logits)

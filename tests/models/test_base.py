"""The forward pass: its documented arguments, pictures among the text, initialisation."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from tiny import EOS, IM_PATCH, build, close, example, forward_error, pad, picture, shifted

from olmo.exceptions import OLMoCheckpointError, OLMoInputError
from olmo.models import base
from olmo.models.base import ModelBase
from olmo.models.molmo.molmo import Molmo
from olmo.models.picture_inputs import warn_of_missing_masks

# -- signature and shapes ------------------------------------------------------------------------------------------


def test_p08_forward_has_the_documented_arguments():
    names = list(inspect.signature(Molmo.forward).parameters)
    documented = ["self", "input_ids", "images", "image_masks", "image_input_idx", "labels", "attention_mask"]
    assert names[: len(documented)] == documented
    assert names[-1] == "kwargs"


@torch.no_grad()
def test_p08_logits_have_the_shape_of_the_batch(model, batch):
    _, together = batch
    logits = model(**together).logits
    assert logits.shape == (*together["input_ids"].shape, model.config.llm.resolved_embedding_size)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_p01_p08_a_model_without_vision_runs_on_text_and_refuses_pictures(make_model):
    model = make_model(vision_backbone=None)
    assert model.vision_backbone is None
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 260)
    with pytest.raises(OLMoInputError, match="text only"):
        model(torch.tensor([[1, 2, 3]]), images=torch.zeros(1, 1, 3, 56, 56))


@torch.no_grad()
def test_p08_every_accepted_form_of_pictures_gives_the_same_logits(model, inputs):
    ids, images, masks, index = (inputs[k] for k in ("input_ids", "images", "image_masks", "image_input_idx"))
    patches = images.unflatten(-1, (4, 14)).unflatten(-3, (4, 14)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    wanted = model(ids[None], images[None], masks[None], index[None]).logits
    starts = (index.min() if index.min() > 0 else index[index >= 0].min())[None] - 1
    forms = [
        (ids, images, masks, index),
        (ids[None], patches[None], masks[None], index[None]),
        (ids, patches, masks, index.int()),
        (ids, images, masks, None),
        (ids, images, masks, starts),
        (ids[None], images[None], masks[None], starts[None]),
        (ids, images.double(), masks, starts + 1),
    ]
    for form in forms:
        close(model(*form).logits, wanted)


@torch.no_grad()
def test_p08_one_crop_for_each_example_may_come_without_its_dimension(make_model):
    model = make_model(mm_preprocessor__crop_mode="resize")
    preprocess = model.config.build_preprocessor(for_inference=True)
    rows = [preprocess(example("same size", picture(seed=k))) for k in range(3)]
    ids, images = torch.stack([r["input_ids"] for r in rows]), torch.cat([r["images"] for r in rows])
    assert images.shape == (3, 3, 56, 56)
    close(model(ids, images).logits, model(ids, images[:, None]).logits)


@torch.no_grad()
def test_omitted_masks_are_all_ones(model, inputs):
    masked = model(inputs["input_ids"], inputs["images"], torch.ones_like(inputs["image_masks"]))
    close(model(inputs["input_ids"], inputs["images"]).logits, masked.logits)


@torch.no_grad()
def test_omitted_masks_warn_once_for_released_weights_only(make_model, preprocess, model, monkeypatch):
    warn_of_missing_masks.cache_clear()
    inputs = preprocess(example("what?", picture()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(inputs["input_ids"], inputs["images"])
        legacy = make_model(mm_preprocessor__legacy_image_mask=True)
        for _ in range(3):
            legacy(inputs["input_ids"], inputs["images"])
    assert ["image_masks was not given" in str(w.message) for w in caught] == [True]


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_example_alone(model, batch):
    examples, together = batch
    logits = model(**together).logits
    for row, alone in enumerate(examples):
        close(logits[row, : len(alone["input_ids"])], model(**alone).logits[0])


@torch.no_grad()
def test_padding_on_the_left_equals_padding_on_the_right(model, batch):
    examples, together = batch
    rows = [e["input_ids"] for e in examples]
    left = pad(rows, "left")
    index = together["image_input_idx"].clone()
    for row, ids in enumerate(rows):
        index[row] = shifted(index[row], left.shape[1] - len(ids))
    out = model(left, together["images"], together["image_masks"], index).logits
    wanted = model(**together).logits
    for row, ids in enumerate(rows):
        close(out[row, -len(ids) :], wanted[row, : len(ids)])


@torch.no_grad()
def test_an_attention_mask_means_the_same_as_minus_ones(model):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    marked = torch.tensor([[5, 6, 7, 8], [9, 10, -1, -1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    wanted = model(marked).logits
    for out in (model(ids, attention_mask=mask), model(marked, attention_mask=mask.bool()),
                model(marked, attention_mask=torch.ones_like(mask))):  # fmt: skip
        close(out.logits[0], wanted[0])
        close(out.logits[1, :2], wanted[1, :2])


# -- pictures among the text ---------------------------------------------------------------------------------------


class Nudged(Molmo):
    """Adds 1 to one feature of one crop."""

    where: tuple[int, int] | None = None

    def encode_images(self, pictures):
        features = super().encode_images(pictures).clone()
        if self.where is not None:
            features[self.where] += 1.0
        return features


@torch.no_grad()
def test_p04_a_feature_reaches_its_own_position_and_later_ones_of_its_own_row(config, batch):
    _, together = batch
    model = Nudged(config).eval()
    plain = model(**together).logits
    pictures = model_pictures(model, together)
    for crop, token in [(0, 3), (2, 1), (len(pictures.rows) - 1, 0)]:
        model.where = (crop, token)
        position, row = int(pictures.token_index[crop, token]), int(pictures.rows[crop])
        changed = (model(**together).logits != plain).any(dim=-1)  # [B, L]
        wanted = torch.zeros_like(changed)
        if position >= 0:
            wanted[row, position:] = True
        n_real = int(together["attention_mask"][row].sum())
        assert torch.equal(changed[:, :n_real], wanted[:, :n_real])
        assert not changed[[r for r in range(3) if r != row]].any()


def model_pictures(model, together):
    return base.picture_inputs(
        together["input_ids"], together["images"], together["image_masks"], together["image_input_idx"], model.config
    )


@torch.no_grad()
def test_features_are_added_to_the_embeddings_of_patch_tokens(model, inputs):
    text = base.text_inputs(inputs["input_ids"], model.config.llm)
    plain = model.llm_inputs(text).embeds[0]
    pictured = model.llm_inputs(text, inputs["images"], inputs["image_masks"], inputs["image_input_idx"]).embeds[0]
    assert torch.equal((plain != pictured).any(-1), inputs["input_ids"] == IM_PATCH)


@torch.no_grad()
def test_images_whose_tokens_are_not_in_the_text_change_nothing(model):
    ids = torch.tensor([[1, 2, 3]])
    index = torch.full((1, 2, 4), -1)
    out = model(ids, torch.zeros(1, 2, 3, 56, 56), image_input_idx=index).logits
    assert torch.equal(out, model(ids).logits)


# -- the rest of the class -----------------------------------------------------------------------------------------


def test_unknown_arguments_are_named_and_extra_fields_of_a_batch_are_not(model):
    ids = torch.tensor([[1, 2]])
    forward_error(model, "forward does not know imags, pixels; it takes metadata", ids, imags=None, pixels=1)
    model(ids, metadata=[{}])


def test_random_initialisation_is_seeded_and_leaves_the_global_state_alone(config):
    before = torch.get_rng_state()
    first, same, other = Molmo(config, seed=3), Molmo(config, seed=3), Molmo(config, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(first.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all(), name
    assert not torch.equal(first.llm.wte.embedding, other.llm.wte.embedding)


@pytest.mark.parametrize("vit", ["openai", "siglip", "dino", "metaclip"])
@pytest.mark.parametrize("pooling", ["attention-meanq", "attention_2wide", "stack"])
@pytest.mark.parametrize("projector", ["mlp", "2mlp", "linear"])
def test_every_parameter_is_drawn(make_config, vit, pooling, projector):
    config = make_config(
        vision_backbone__vit__image_model_type=vit, vision_backbone__image_pooling_2d=pooling,
        vision_backbone__image_projector=projector, llm__block_type="olmoe", llm__qkv_bias=True, llm__qk_norm=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = Molmo(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    model.reset_parameters(torch.Generator().manual_seed(0))
    undrawn = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    assert not undrawn
    assert not list(model.named_buffers()), "buffers would be lost on the meta device"


def test_components_are_a_partition_of_the_parameters(model):
    parts = model.components()
    assert sorted(parts) == ["connector", "llm", "vit"]
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert "llm.wte.new_embedding" in parts["connector"]
    assert model.num_params() == sum(p.numel() for p in model.parameters())


def test_p28_p29_inputs_follow_the_model_and_dtype_is_read_from_it(make_config, inputs):
    model = build(make_config()).cpu()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.to(torch.bfloat16).dtype == torch.bfloat16


def test_the_base_class_has_no_published_weights(config, tmp_path):
    with pytest.raises(OLMoCheckpointError, match="ModelBase has no published layout"):
        ModelBase.from_pretrained(tmp_path)
    with pytest.raises(OLMoCheckpointError, match="use save_checkpoint"):
        ModelBase(config).save_pretrained_hf(tmp_path / "x")


@torch.no_grad()
def test_generated_ids_feed_back_into_forward(model, inputs):
    out = model.generate(**inputs, max_new_tokens=3, eos_token_id=EOS)
    ids = torch.cat([inputs["input_ids"], out.token_ids[0]])
    logits = model(**{**inputs, "input_ids": ids}).logits[0]
    assert logits[len(inputs["input_ids"]) - 1 : -1].argmax(-1).tolist() == out.token_ids[0].tolist()

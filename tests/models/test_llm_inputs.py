"""Who sees whom: every token is nudged in turn, and what changes is compared with the rule of each mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import IM_COL, IM_END, IM_PATCH, IM_START, MODES, example, picture

from olmo.exceptions import OLMoConfigurationError
from olmo.models.llm_inputs import BiDirectionalAttention, LlmInputs, visible_keys
from olmo.models.molmo.molmo import Molmo
from olmo.models.text_inputs import text_inputs

PICTURE_IDS = torch.tensor([IM_START, IM_END, IM_PATCH, IM_COL])


def fused(model: Molmo, inputs: dict[str, Any]) -> LlmInputs:
    """What goes into the language model."""
    names = ("attention_mask", "subsegment_ids", "position_ids", "labels")
    text = text_inputs(inputs["input_ids"], model.config.llm, **{k: inputs.get(k) for k in names})
    return model.llm_inputs(text, inputs.get("images"), inputs.get("image_masks"), inputs.get("image_input_idx"))


def influence(model: Molmo, inputs: LlmInputs, row: int = 0) -> torch.Tensor:
    """bool `[L, L]`: whether the final state at a position (row) changes with the embedding of another (column)."""
    length = inputs.embeds.shape[1]
    copies = {
        f.name: value[row : row + 1].expand(length + 1, *value.shape[1:]).clone()
        for f in dataclasses.fields(inputs)
        if isinstance(value := getattr(inputs, f.name), torch.Tensor)
    }
    copies["embeds"][torch.arange(length), torch.arange(length)] += 1.0
    hidden = model.run_llm(LlmInputs(**copies)).hidden
    # Wide against rounding (1e-6), narrow against the weakest influence, which is that through one layer.
    return ((hidden[:-1] - hidden[-1]).abs().amax(-1) > 1e-5).T


def rule(ids: torch.Tensor, mode: str | None, answer: torch.Tensor | None = None) -> torch.Tensor:
    """bool `[L, L]` of one row, written down token by token from the definition of the modes."""
    length, is_real = len(ids), (ids >= 0).tolist()
    is_picture, run = torch.isin(ids, PICTURE_IDS).tolist(), (ids == IM_START).cumsum(0).tolist()
    is_answer = [False] * length if answer is None else answer.tolist()
    looks_ahead: dict[str | None, Callable[[int, int], bool]] = {
        None: lambda q, k: False,
        "within_image": lambda q, k: is_picture[q] and is_picture[k] and run[q] == run[k],
        "image_tokens": lambda q, k: is_picture[q] and is_picture[k],
        "image_to_question": lambda q, k: is_picture[q] and not is_answer[k],
    }
    return torch.tensor(
        [[q == k or (is_real[k] and (k <= q or looks_ahead[mode](q, k))) for k in range(length)] for q in range(length)]
    )


def reach(sees: torch.Tensor, n_layers: int = 2) -> torch.Tensor:
    """What can influence what through several layers of attention."""
    steps = sees.double()
    for _ in range(n_layers - 1):
        steps = steps @ sees.double()
    return steps > 0


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_p05_influence_is_that_of_the_mode_for_two_pictures(make_model, mode):
    model = make_model(bi_directional_attn=mode)
    inputs = model.config.build_preprocessor(for_inference=True)(
        example("which?", picture(60, 100), picture(56, 56, 1))
    )
    assert torch.equal(influence(model, fused(model, inputs)), reach(rule(inputs["input_ids"], mode)))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_p05_padding_is_never_seen_on_either_side(make_model, mode, preprocess):
    model = make_model(bi_directional_attn=mode)
    inputs = preprocess(example("which?", picture()))
    fill = torch.full((3,), -1)
    for left, right in ((fill, fill[:0]), (fill[:0], fill), (fill, fill[:2])):
        ids = torch.cat([left, inputs["input_ids"], right])
        found = influence(model, fused(model, {**inputs, "input_ids": ids, "image_input_idx": None}))
        is_real = ids >= 0
        assert torch.equal(found[is_real], reach(rule(ids, mode))[is_real])
        assert not found[is_real][:, ~is_real].any()


@torch.no_grad()
def test_p05_answers_are_not_seen_by_pictures_in_training(make_model):
    model = make_model(bi_directional_attn="image_to_question")
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    inputs = preprocess(example("which?", picture(), answer="that"))
    answer = inputs["labels"] != -100
    found = influence(model, fused(model, inputs))
    assert torch.equal(found, reach(rule(inputs["input_ids"], "image_to_question", answer)))
    pictures = torch.isin(inputs["input_ids"], PICTURE_IDS)
    assert not found[pictures][:, answer].any()
    assert found[pictures][:, ~answer].all()


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_p05_text_is_causal_in_every_mode(make_model, mode, preprocess):
    """In one layer. Through a picture that saw it, later text reaches earlier text in image_to_question."""
    model = make_model(bi_directional_attn=mode)
    inputs = fused(model, preprocess(example("which?", picture())))
    mask = visible_keys(inputs, model.config.bi_directional_attn)
    length = inputs.embeds.shape[1]
    if mask is None:
        return
    is_text = inputs.image_groups[0] == 0
    assert torch.equal(mask[0, 0][is_text], torch.ones(length, length).tril().bool()[is_text])


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_p05_conversations_that_share_a_picture_do_not_see_each_other(make_model, mode):
    model = make_model(bi_directional_attn=mode)
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    talks = [{"messages": example(q, answer=a)["messages"]} for q, a in (("what?", "cat"), ("where?", "here"))]
    inputs = preprocess({"image": picture(), "message_list": talks})
    found = influence(model, fused(model, inputs))
    segments = inputs["subsegment_ids"]
    first, second, shared = segments == 1, segments == 2, segments > 2
    assert not found[first][:, second].any() and not found[second][:, first].any()
    assert not found[shared][:, ~shared].any()
    assert found[second][:, shared].all()


@torch.no_grad()
def test_text_alone_takes_the_plain_causal_path_in_every_mode(make_model, preprocess):
    for mode in MODES:
        model = make_model(bi_directional_attn=mode)
        assert visible_keys(fused(model, preprocess(example("no picture"))), model.config.bi_directional_attn) is None


def test_padding_on_the_right_alone_needs_no_mask():
    def mask_for(rows: list[list[int]], **more: Any) -> torch.Tensor | None:
        valid = torch.tensor(rows).bool()
        return visible_keys(LlmInputs(torch.zeros(*valid.shape, 4), torch.zeros(valid.shape), valid, **more), None)

    assert mask_for([[1, 1, 1, 0], [1, 0, 0, 0]]) is None
    assert mask_for([[1, 1, 1, 0], [0, 1, 1, 1]]) is not None
    assert mask_for([[1, 0, 1, 0]]) is not None
    assert mask_for([[1, 1, 0]], segment_ids=torch.ones(1, 3)) is not None


def test_last_real_position_with_padding_on_either_side():
    valid = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]).bool()
    embeds, positions = torch.zeros(4, 4, 2), torch.zeros(4, 4)
    assert LlmInputs(embeds, positions, valid).last_real_position().tolist() == [1, 3, 3, 2]
    assert LlmInputs(embeds, positions).last_real_position().tolist() == [3] * 4


def test_modes_are_the_documented_strings(make_config):
    assert [m.value for m in BiDirectionalAttention] == ["within_image", "image_tokens", "image_to_question"]
    assert make_config().bi_directional_attn is None
    with pytest.raises(OLMoConfigurationError, match="bi_directional_attn: 'all' is not one of 'within_image'"):
        make_config(bi_directional_attn="all")

"""The cost of a prompt before it is run, against what is then run, and what a selection saves at the released sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import example, picture
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from olmo.exceptions import OLMoInputError
from olmo.models.flops import llm_flops
from olmo.models.he_molmo.cost import PromptCost, flops_by_part, prompt_cost
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.he_molmo.he_molmo_config import Encode, HeMolmoConfig, ScorerType
from olmo.models.presets import preset

FULL_HD = {"width": 1920, "height": 1080, "n_text_tokens": 64}
PICTURE_TOKENS, MARKERS = 1152, 44
N_TEXT = 1 + len(" User: what? Assistant:")
REAL_LAYOUT = {
    "vision_backbone__vit__image_size": 336, "vision_backbone__image_padding_embed": None,
    "mm_preprocessor__max_crops": 12, "mm_preprocessor__overlap_margins": [4, 4], "llm__max_sequence_length": 2048,
}  # fmt: skip


def at_7b(**fields: Any) -> HeMolmoConfig:
    """Molmo-7B-D with a token selector."""
    return HeMolmoConfig.from_molmo(preset("molmo-7b-d"), **fields)


def prepared(model: HeMolmo, height: int, width: int, answer: str | None = None) -> dict[str, Any]:
    """A batch of one picture with a question."""
    preprocess = model.config.build_preprocessor(for_inference=answer is None, is_training=False)
    batch = model.config.build_collator(None)([preprocess(example("what?", picture(height, width), answer=answer))])
    batch.pop("metadata")
    return batch


@pytest.mark.parametrize("scorer", list(ScorerType))
@pytest.mark.parametrize("encode", list(Encode))
@torch.no_grad()
def test_p59_operations_are_those_of_the_run(make_he_model, encode, scorer):
    """Largest difference seen: 0.9 %; fewer lines may keep a column token than are counted."""
    model = make_he_model(token_scorer={"scorer": scorer.value}, encode=encode.value, selection_ratio=0.4)
    batch = prepared(model, 60, 100)
    cost = prompt_cost(model.config, 100, 60, n_text_tokens=N_TEXT)
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, math:
        out = model(**batch, logits_at="last")
    assert int(out.aux["selection_mask"].sum()) <= cost.n_picture_tokens
    assert counter.get_total_flops() == pytest.approx(cost.total, rel=0.05)


def half_of_pairs(config: HeMolmoConfig, cost: PromptCost) -> float:
    """Operations of the language model where a kernel looks at no pair that the causal mask hides."""
    return llm_flops(config.llm, cost.n_tokens, cost.n_tokens * (cost.n_tokens + 1) // 2, n_logits=1)


@pytest.mark.parametrize("ratio, least, factor", [(0.25, 0.50, 2.13), (0.125, 0.60, 2.61)])
def test_p59_the_cut_at_7b(ratio, least, factor):
    """Whichever way pairs are counted; the factors are those of the design, which counts half of them."""
    plain, config = preset("molmo-7b-d"), at_7b(selection_ratio=ratio)
    before, after = prompt_cost(plain, **FULL_HD), prompt_cost(config, **FULL_HD)
    assert (before.n_crops, before.n_tokens) == (13, PICTURE_TOKENS + MARKERS + 64)
    assert after.n_tokens == PICTURE_TOKENS * ratio + MARKERS + 64
    assert 1 - after.total / before.total >= least
    halves = [c.total - c.flops.llm + half_of_pairs(config, c) for c in (before, after)]
    assert 1 - halves[1] / halves[0] >= least
    assert halves[0] / halves[1] == pytest.approx(factor, abs=0.01)
    if ratio == 0.25:
        assert 1 - after.flops.llm / before.flops.llm >= 0.68
        assert 1 - half_of_pairs(config, after) / half_of_pairs(config, before) >= 0.68


def test_p59_the_encoder_is_part_of_the_cut_where_crops_are_chosen():
    before = prompt_cost(preset("molmo-7b-d"), **FULL_HD)
    after = prompt_cost(at_7b(encode="selected_crops"), **FULL_HD)
    assert after.n_crops == 1 + 3
    assert after.flops.vit == before.flops.vit * 4 / 13
    assert before.total / after.total >= 2.8


def test_the_default_scorer_is_a_thousandth_and_a_second_run_of_the_encoder_is_not():
    costs = {name: prompt_cost(at_7b(token_scorer={"scorer": name}), **FULL_HD) for name in ScorerType}
    assert costs[ScorerType.cross].scorer < 0.002 * costs[ScorerType.cross].total
    assert costs[ScorerType.vit_attention].scorer > costs[ScorerType.vit_attention].flops.vit
    assert costs[ScorerType.norm].scorer == 0.0


def test_tokens_of_the_choice():
    """Nothing is left out at 1; a token of each line keeps its column token; the crops that are encoded are the most.

    Of the 12 crops of a 1920x1080 picture the four corners make 100 tokens, the inner ones 64.
    """
    assert prompt_cost(at_7b(selection_ratio=1.0), **FULL_HD).n_tokens == PICTURE_TOKENS + MARKERS + 64
    assert prompt_cost(at_7b(selection_ratio=0.005), **FULL_HD).n_tokens == 6 + 6 + 4 + 64
    few = prompt_cost(at_7b(selection_ratio=0.9, encode="selected_crops", crop_ratio=1 / 12), **FULL_HD)
    assert (few.n_crops, few.n_picture_tokens) == (2, 144 + 100)
    each = prompt_cost(at_7b(token_scorer={"granularity": "per_crop"}), **FULL_HD)
    assert each.n_picture_tokens == 36 + 4 * 25 + 6 * 20 + 2 * 16
    floor = prompt_cost(at_7b(token_scorer={"min_keep": 2000}), **FULL_HD)
    assert floor.n_picture_tokens == PICTURE_TOKENS


def test_a_text_model_has_no_picture():
    with pytest.raises(OLMoInputError, match="text only"):
        prompt_cost(at_7b().replace(vision_backbone=None), **FULL_HD)


@torch.no_grad()
def test_p61_the_cache_is_as_small_as_the_prompt(make_he_model):
    """A choice that leaves a token in every line keeps as many markers as there can be, so the formula is exact."""
    before, after = prompt_cost(preset("molmo-7b-d"), **FULL_HD), prompt_cost(at_7b(), **FULL_HD)
    assert before.kv_bytes == 57_344 * before.n_tokens
    assert after.kv_bytes <= 0.35 * before.kv_bytes
    model = make_he_model(**REAL_LAYOUT, token_scorer={"scorer": "uniform"})
    batch = prepared(model, 1080, 1920)
    found = {ratio: cache_bytes(model, batch, ratio) for ratio in (0.25, 1.0)}
    expected = prompt_cost(model.config, 1920, 1080, n_text_tokens=N_TEXT, bytes_per_number=4).kv_bytes
    assert found[0.25] == expected
    assert found[0.25] <= 0.35 * found[1.0]


def cache_bytes(model: HeMolmo, batch: dict[str, Any], ratio: float) -> int:
    """Bytes of the keys and values after the prompt."""
    past = model(**batch, selection_ratio=ratio, use_cache=True).past_key_values
    return sum(tensor.numel() * tensor.element_size() for layer in past for tensor in layer)


def test_p61_half_of_what_the_backward_pass_needs(make_he_config):
    """With the encoder's activations computed again in the backward pass, which is the default; seen: 0.37."""
    config = make_he_config(**REAL_LAYOUT, llm__d_model=128, llm__mlp_hidden_size=512, llm__n_layers=8)
    model = HeMolmo(config).train()
    batch = prepared(model, 1080, 1920, answer="a")
    assert int((batch["input_ids"] == config.image_token_ids.patch).sum()) == PICTURE_TOKENS
    kept = {ratio: saved_bytes(model, batch, ratio) for ratio in (0.25, 1.0)}
    assert kept[0.25] <= 0.5 * kept[1.0]


def saved_bytes(model: nn.Module, batch: dict[str, Any], ratio: float) -> int:
    """Bytes of the tensors that the backward pass keeps, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch, selection_ratio=ratio, logits_at="labels").loss
    del loss
    return sum(kept.values())


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_what_selection_saves_is_told_by_part_and_in_all(ratio: float) -> None:
    found = flops_by_part(at_7b(selection_ratio=ratio), **FULL_HD)
    chosen, plain = prompt_cost(at_7b(selection_ratio=ratio), **FULL_HD), prompt_cost(preset("molmo-7b-d"), **FULL_HD)
    assert found["total"] == (chosen.total, plain.total), "the whole is that of the model without selection"
    for part in ("vit", "connector", "llm"):
        assert found[part] == (getattr(chosen.flops, part), getattr(plain.flops, part))
    assert found["scorer"] == (chosen.scorer, 0.0) and chosen.scorer > 0
    assert found["llm"][0] / found["llm"][1] == pytest.approx(ratio, abs=0.1)
    assert found["vit"][0] == found["vit"][1]


def test_a_model_that_selects_nothing_saves_nothing() -> None:
    found = flops_by_part(preset("molmo-7b-d"), **FULL_HD)
    assert all(some == whole for some, whole in found.values()) and found["total"][0] > 0

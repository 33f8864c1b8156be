"""What a forward pass returns: fields, states and attentions on demand, keys and values that can be passed back."""

from __future__ import annotations

import pytest
import torch
from tiny import MODES, build, close, example, forward_error, pad, picture

from olmo.models.outputs import OLMoOutput


def test_p15_output_is_a_tuple_with_the_documented_fields():
    assert OLMoOutput._fields == ("logits", "loss", "past_key_values", "hidden_states", "attentions", "aux")
    assert issubclass(OLMoOutput, tuple)


@torch.no_grad()
def test_p15_states_and_attentions_only_when_asked_for(model, batch):
    _, together = batch
    out = model(**together)
    assert out.hidden_states is None and out.attentions is None and out.loss is None and out.aux is None
    batch_size, length = together["input_ids"].shape
    full = model(**together, output_hidden_states=True, output_attentions=True)
    assert full.hidden_states.shape == (3, batch_size, length, 32)
    assert [a.shape for a in full.attentions] == [(batch_size, 2, length, length)] * 2
    for weights in full.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    close(model.llm.logits(full.hidden_states[-1]), full.logits)
    for row, n_real in enumerate(together["attention_mask"].sum(1).tolist()):
        close(full.logits[row, :n_real], out.logits[row, :n_real])
        assert not full.attentions[0][row, :, :n_real, n_real:].any()


@torch.no_grad()
def test_p15_past_key_values_are_one_pair_a_layer(model):
    past = model(torch.tensor([[1, 2, 3]])).past_key_values
    assert isinstance(past, tuple) and len(past) == 2
    assert all(k.shape == v.shape == (1, 2, 3, 16) for k, v in past)
    assert model(torch.tensor([[1, 2, 3]]), use_cache=False).past_key_values is None


def test_p15_no_cache_is_kept_while_learning(model):
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids).past_key_values is None
    assert model(ids, use_cache=True).past_key_values is not None
    with torch.no_grad():
        assert model(ids, labels=ids).past_key_values is None


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_p15_p17_decoding_with_past_key_values_equals_the_full_forward(make_model, mode):
    """Tolerance 1e-5; worst seen: 2.7e-6."""
    model = make_model(bi_directional_attn=mode)
    preprocess = model.config.build_preprocessor(for_inference=True)
    inputs = preprocess(example("what is it?", picture(60, 100), picture(56, 56, 1)))
    answer = torch.tensor([50, 60, 70, 80, 90])
    prompt = inputs["input_ids"]
    ids = torch.cat([prompt, answer])
    labels = torch.cat([torch.full_like(prompt, -100), answer])  # marks the answer; picture rows do not see it
    full = model(**{**inputs, "input_ids": ids, "labels": labels}).logits[0]
    out = model(**inputs)
    close(out.logits[0], full[: len(prompt)])
    for step, token in enumerate(answer):
        out = model(token[None, None], past_key_values=out.past_key_values)
        close(out.logits[0, 0], full[len(prompt) + step])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask", ["none", "new", "all"])
@torch.no_grad()
def test_p15_past_of_padded_rows_can_be_passed_back(model, side, mask):
    rows = [torch.tensor([5, 6, 7, 8, 9]), torch.tensor([10, 11]), torch.tensor([12, 13, 14])]
    more = torch.tensor([[20, 21], [22, 23], [24, 25]])
    prompt = pad(rows, side)
    past = model(prompt).past_key_values
    masks = {"none": None, "new": torch.ones(3, 2), "all": torch.cat([prompt >= 0, torch.ones(3, 2).bool()], dim=1)}
    given = past if mask != "all" else tuple((k.clone(), v.clone()) for k, v in past)  # a plain tuple remembers nothing
    out = model(more, past_key_values=given, attention_mask=masks[mask])
    third = model(torch.tensor([[30], [31], [32]]), past_key_values=out.past_key_values)
    for row, ids in enumerate(rows):
        whole = torch.cat([ids, more[row], torch.tensor([30 + row])])
        alone = model(whole).logits[0]
        close(out.logits[row], alone[len(ids) : -1])
        close(third.logits[row, 0], alone[-1])


@torch.no_grad()
def test_past_key_values_are_not_changed_by_being_passed_back(model):
    past = model(torch.tensor([[1, 2, 3]])).past_key_values
    first = model(torch.tensor([[4]]), past_key_values=past).logits
    model(torch.tensor([[9, 9, 9]]), past_key_values=past)
    assert torch.equal(model(torch.tensor([[4]]), past_key_values=past).logits, first)
    assert past[0][0].shape[2] == 3


def test_a_kept_cache_does_not_change_the_gradient(make_config):
    model = build(make_config()).train()
    ids = torch.tensor([[1, 2, 3, 4]])
    grads = []
    for use_cache in (False, True):
        model.zero_grad()
        model(ids, labels=ids, use_cache=use_cache).loss.backward()
        grads.append([p.grad.clone() for p in model.llm.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_past_key_values_that_do_not_fit(model, make_model, inputs):
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        past = model(ids).past_key_values
    wanted = "2 pairs \\(k, v\\), each \\[1, 2, S, 16\\]"
    for wrong in ((), past[:1], 3, [(1, 2), (3, 4)], tuple((k.repeat(2, 1, 1, 1), v) for k, v in past),
                  tuple((k[..., :8], v[..., :8]) for k, v in past)):  # fmt: skip
        forward_error(model, wanted, ids, past_key_values=wrong)
    forward_error(model, "subsegment_ids cannot", ids, past_key_values=past, subsegment_ids=ids)
    forward_error(model, "belong to the first call", ids, images=inputs["images"], past_key_values=past)
    forward_error(model, "exceed the context", torch.ones(1, 254).long(), past_key_values=past)

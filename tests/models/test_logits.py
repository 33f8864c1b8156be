"""The loss, and logits at some positions only."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import build, close, example, picture


def labelled(model, answer: str = "a cat"):
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    return preprocess(example("what?", picture(60, 100), answer=answer))


def test_p09_loss_is_the_shifted_cross_entropy_over_valid_labels(model):
    inputs = labelled(model)
    out = model(**inputs)
    logits, labels = out.logits[0, :-1].float(), inputs["labels"][1:]
    wanted = F.cross_entropy(logits, labels, ignore_index=-100)
    torch.testing.assert_close(out.loss, wanted)
    assert out.loss.dtype == torch.float32
    assert int((labels != -100).sum()) == len(" a cat") + 1


def test_p09_no_labels_no_loss(model, inputs):
    assert model(**inputs).loss is None


def test_p09_all_labels_ignored_is_zero_with_a_gradient(make_config):
    model = build(make_config()).train()
    ids = torch.tensor([[1, 2, 3]])
    for where in ("all", "last", "labels"):
        loss = model(ids, labels=torch.full((1, 3), -100), logits_at=where, z_loss=1e-4).loss
        assert loss.item() == 0.0
        loss.backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.llm.parameters() if p.requires_grad)
        model.zero_grad()


def test_p09_loss_masks_weigh_labels_and_change_the_divisor(model):
    inputs = labelled(model)
    weights = torch.rand(len(inputs["labels"]), generator=torch.Generator().manual_seed(0))
    out = model(**{**inputs, "loss_masks": weights})
    each = F.cross_entropy(out.logits[0, :-1], inputs["labels"][1:], reduction="none", ignore_index=-100)
    counted = weights[1:] * (inputs["labels"][1:] != -100)
    torch.testing.assert_close(out.loss, (each * counted).sum() / counted.sum())
    assert model(**{**inputs, "loss_masks": torch.zeros_like(weights)}).loss.item() == 0.0


@pytest.mark.parametrize("where", ["all", "last", "labels"])
def test_logits_at_fewer_places_are_the_same_logits_and_the_same_loss(model, batch, where):
    _, together = batch
    labels = (
        together["input_ids"]
        .masked_fill(together["input_ids"] >= 256, -100)
        .masked_fill(together["input_ids"] < 0, -100)
    )
    full = model(**together, labels=labels)
    out = model(**together, labels=labels, logits_at=where)
    torch.testing.assert_close(out.loss, full.loss)
    if where == "labels":
        rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        close(out.logits, full.logits[rows, columns])
    elif where == "last":
        ends = together["attention_mask"].sum(1) - 1
        close(out.logits[:, 0], full.logits[torch.arange(3), ends])


def test_conversations_packed_on_one_picture_equal_separate_ones(model):
    """Tolerance 1e-5; worst seen: 2.4e-6."""
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}]
             for q, a in (("what?", "a cat"), ("how many are there?", "two"), ("where", "left of it"))]  # fmt: skip
    shown = picture(60, 100)
    packed = preprocess({"image": shown, "message_list": [{"messages": t} for t in talks]})
    assert packed["subsegment_ids"].unique().tolist() == [1, 2, 3, 10_000]
    with torch.no_grad():
        together = model(**packed).logits[0]
        for number, talk in enumerate(talks, start=1):
            alone = preprocess({"image": shown, "messages": talk})
            own = packed["subsegment_ids"] == number
            logits = model(**alone).logits[0]
            close(together[own], logits[-int(own.sum()) :])
    separate = [preprocess({"image": shown, "messages": t}) for t in talks]
    losses = [(model(**s).loss.item(), int((s["labels"] != -100).sum())) for s in separate]
    mean = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    unweighted = {k: v for k, v in packed.items() if k != "loss_masks"}
    # The first answer token of a packed conversation is predicted by its own question, so the same losses are taken.
    assert model(**unweighted).loss.item() == pytest.approx(mean, abs=1e-5)

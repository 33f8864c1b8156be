"""Packed rows and message trees learn what separate examples learn: same losses, same gradients, in every mode.

Tolerance 1e-5 on a mean loss of 6 and on gradients of up to 0.5; worst seen: 1.7e-6 on the loss, 2.7e-7 on gradients.
With masks that forget which example a token is of, the modes that look ahead are off by 8e-3 and 4e-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MODES, build, close, example, picture

from olmo.data.loader import StepLoader
from olmo.models.molmo.molmo import Molmo
from olmo.nn.flex_mask import attend_in_blocks
from olmo.nn.llm_config import AttentionBackend
from olmo.nn.loss import target_positions
from olmo.preprocessing.packed import SHARED_SEGMENT, with_segments
from olmo.preprocessing.preprocessor import Preprocessor

TALKS = [("what?", "a cat"), ("how many are there?", "two"), ("where", "left of it")]


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


RAW: list[dict[str, Any]] = [
    example("what is this?", picture(60, 100), answer="a cat"),
    example("no picture", answer="none"),
    {"image": picture(56, 56, 1), "message_list": [{"messages": talk(*t)} for t in TALKS]},
    example("which of them?", picture(56, 56, 2), picture(40, 60, 3), answer="both"),
    {"message_list": [{"messages": talk(*t)} for t in TALKS[:2]]},
]
"""One picture, none, a tree on a picture, two pictures, a tree of text; with weights that differ."""


def preprocessor(model: Molmo) -> Preprocessor:
    return model.config.build_preprocessor(for_inference=False, is_training=False)


def prepared(model: Molmo) -> list[dict[str, Any]]:
    prepare = preprocessor(model)
    return [prepare({**raw, "weight": 1.0 + 0.25 * i}) for i, raw in enumerate(RAW)]


def weight_of(batch: dict[str, torch.Tensor]) -> float:
    rows, columns, _ = target_positions(batch["labels"], batch.get("subsegment_ids"))
    return float(batch["loss_masks"][rows, columns + 1].sum())


def step(model: Molmo, batches: Sequence[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss over the weighted tokens of all batches, and its gradients."""
    model.zero_grad()
    total = sum(weight_of(batch) for batch in batches)
    mean = 0.0
    for batch in batches:
        loss = model(**batch, logits_at="labels", z_loss=1e-3).loss * (weight_of(batch) / total)
        loss.backward()
        mean += float(loss.detach())
    return mean, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def collate(model: Molmo, rows: Sequence[Any]) -> dict[str, Any]:
    return model.config.build_collator(None, None, include_metadata=False)(rows)


@pytest.mark.parametrize("mode", MODES)
def test_packed_equals_separate(make_config, mode):
    model = build(make_config(bi_directional_attn=mode))
    examples = prepared(model)
    separate = [collate(model, [e]) for e in examples]
    packed = collate(model, [[examples[i] for i in (3, 0, 1)], [examples[4], examples[2]]])
    assert len(packed["input_ids"]) == 2
    assert_same_step(step(model, [packed]), step(model, separate))


@pytest.mark.parametrize("mode", MODES)
def test_tree_equals_separate_conversations(make_config, mode):
    model = build(make_config(bi_directional_attn=mode, llm__max_sequence_length=512))
    prepare, shown = preprocessor(model), {"images": [picture(60, 100), picture(56, 56, 1)]}
    tree = prepare({**shown, "message_list": [{"messages": talk(*t)} for t in TALKS]})
    separate = [prepare({**shown, "messages": talk(*t)}) for t in TALKS]
    for alone in separate:
        alone["loss_masks"] = alone["loss_masks"] * np.sqrt(1 / len(TALKS))
        if mode == "image_to_question":
            # What conversations share cannot see the question of one of them: it would tell it to the others.
            n_shared = int((tree["subsegment_ids"] == SHARED_SEGMENT).sum())
            alone.update(with_segments(alone))
            alone["subsegment_ids"][:n_shared] = SHARED_SEGMENT
    assert_same_step(step(model, [collate(model, [tree])]), step(model, [collate(model, [e]) for e in separate]))


@pytest.mark.parametrize("values", [{"norm_after": True, "qk_norm": True, "n_kv_heads": 1}, {"block_type": "olmoe"}])
def test_packed_equals_separate_in_other_blocks(make_config, values):
    model = build(make_config(**{f"llm__{name}": value for name, value in values.items()}))
    examples = prepared(model)
    packed = collate(model, [examples[:3], examples[3:]])
    assert_same_step(step(model, [packed]), step(model, [collate(model, [e]) for e in examples]))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_of_a_packed_example_do_not_depend_on_its_neighbours(make_config, mode):
    model = build(make_config(bi_directional_attn=mode))
    examples = prepared(model)
    packed = model(**collate(model, [[examples[i] for i in (0, 2, 1)], [examples[3]]])).logits
    start = 0
    for i in (0, 2, 1):
        alone = model(**collate(model, [examples[i]])).logits[0]
        close(packed[0, start : start + len(alone)], alone)
        start += len(alone)
    close(packed[1, : len(examples[3]["input_ids"])], model(**collate(model, [examples[3]])).logits[0])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_block_masks_give_the_logits_of_dense_ones(make_config, mode, monkeypatch):
    """Forward only: on CPU FlexAttention has no backward. Grouped heads, padding, packed rows and a tree."""
    heads = {"llm__n_heads": 4, "llm__n_kv_heads": 2, "llm__d_model": 64}  # FlexAttention wants heads of 16
    model = build(make_config(bi_directional_attn=mode, **heads))
    examples = prepared(model)
    batch = collate(model, [[examples[i] for i in (3, 0, 1)], [examples[4], examples[2]]])
    dense = model(**batch)
    monkeypatch.setattr(model.config.llm, "attention_backend", AttentionBackend.flex)
    passes = []
    monkeypatch.setattr("olmo.nn.attention.attend_in_blocks", lambda *a: passes.append(1) or attend_in_blocks(*a))
    in_blocks = model(**batch)
    assert len(passes) == model.config.llm.n_layers
    is_real = batch["input_ids"] >= 0
    close(in_blocks.logits[is_real], dense.logits[is_real])
    close(in_blocks.loss, dense.loss)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_on_cpu_leaves_training_to_dense_masks(make_config):
    model = build(make_config(llm__attention_backend="flex"))
    packed = collate(model, [prepared(model)[:2]])
    assert not model.llm.takes_blocks(has_segments=True)
    assert step(model, [packed])[0] > 0
    with torch.no_grad():
        assert model.llm.takes_blocks(has_segments=True)
        assert not build(make_config()).llm.takes_blocks(has_segments=True)  # auto, on CPU
        with_dropout = build(make_config(llm__attention_backend="flex", llm__attention_dropout=0.1))
        assert with_dropout.llm.takes_blocks(has_segments=True)
        assert not with_dropout.train().llm.takes_blocks(has_segments=True)
        assert model(**packed, output_attentions=True).attentions is not None


def test_a_packed_batch_of_one_example_a_row_needs_no_mask(make_config):
    model = build(make_config())
    examples = prepared(model)
    batch = collate(model, [[examples[0]], [examples[1]]])
    assert "subsegment_ids" not in batch


@pytest.mark.parametrize(
    ("micro_batch_size", "world_size", "n_workers"), [(1, 1, 0), (2, 1, 1), (3, 2, 0)], ids=["one", "workers", "ranks"]
)
def test_a_packed_step_of_the_loader_equals_a_plain_one(make_config, micro_batch_size, world_size, n_workers):
    model = build(make_config(bi_directional_attn="within_image"))
    stream, prepare = _Stream(), preprocessor(model)

    def batches(rank: int, world_size: int, pack: bool, size: int, n_workers: int = 0) -> list[dict[str, Any]]:
        loader = StepLoader(
            stream, prepare, model.config.build_collator(256, None, include_metadata=False), batch_size=7,
            micro_batch_size=size, max_steps=3, first_step=2, rank=rank, world_size=world_size, pack=pack,
            sequence_length=256, n_workers=n_workers,
        )  # fmt: skip
        (only,) = loader
        assert only.step == 2 and only.n_examples == len(loader.share(2))
        return only.micro_batches

    plain = step(model, batches(0, 1, pack=False, size=7))
    packed = [b for r in range(world_size) for b in batches(r, world_size, True, micro_batch_size, n_workers)]
    assert sum(len(b["input_ids"]) for b in packed) < 7
    assert_same_step(step(model, packed), plain)


class _Stream:
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**RAW[index % len(RAW)], "weight": 1.0 + index % 4}

"""Closed formulas against the operations that PyTorch really counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from olmo.exceptions import OLMoInputError
from olmo.models.flops import Flops, forward_flops, training_flops
from olmo.models.molmo.molmo import Molmo, MolmoConfig

BASE: dict[str, Any] = {
    "llm": {
        "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 90,
        "additional_vocab_size": 8, "max_sequence_length": 64,
    },
    "vision_backbone": {
        "vit": {
            "image_model_type": "openai", "image_size": 56, "patch_size": 14, "d_model": 24, "n_heads": 2,
            "n_layers": 3, "mlp_hidden_size": 40,
        },
        "vit_layers": [-2],
    },
    "mm_preprocessor": {"crop_mode": "resize"},
}  # fmt: skip


def counted(config: MolmoConfig, n_crops: int, length: int) -> tuple[int, MolmoConfig]:
    model = Molmo(config)
    first = config.image_token_ids.patch
    counter = FlopCounterMode(display=False)
    rows, columns = config.vision_backbone.tokens_per_side
    ids = torch.full((1, length), 5)
    ids[0, 1 : 1 + rows * columns] = first
    side = config.vision_backbone.vit.spec.image_size
    with counter, torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        idx = torch.arange(1, 1 + rows * columns).expand(1, n_crops, -1)
        model(ids, images=torch.randn(1, n_crops, 3, side, side), image_input_idx=idx)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"llm": {"block_type": "olmoe", "n_experts": 4, "experts_per_token": 2, "moe_backend": "loop"}},
        {"llm": {"head_dim": 16, "weight_tying": True, "qk_norm": True}},
        {"vision_backbone": {"image_pooling_2d": "none", "image_projector": "linear"}},
        {"vision_backbone": {"image_pooling_2d": "stack", "image_projector": "2mlp", "projector_hidden_size": 20}},
        {"vision_backbone": {"image_pooling_2d": "mean", "vit_layers": [-1, -3]}},
        {"vision_backbone": {"image_pooling_2d": "attention_2wide", "vit": {"image_model_type": "siglip"}}},
    ],
    ids=lambda c: "-".join(f"{k}" for part in c.values() for k in part) or "base",
)
def test_the_forward_formula_equals_what_is_counted(changes: dict[str, Any]) -> None:
    values = {k: {**BASE[k], **changes.get(k, {})} for k in BASE}
    values["vision_backbone"]["vit"] = {**BASE["vision_backbone"]["vit"], **values["vision_backbone"]["vit"]}
    config = MolmoConfig.new(**values)
    length, n_crops = 24, 2
    expected = forward_flops(config, n_tokens=length, n_pairs=length**2, n_crops=n_crops, n_logits=length)
    assert counted(config, n_crops, length) == expected.total


def test_backward_is_counted_only_where_something_learns() -> None:
    forward = Flops(vit=1.0, connector=10.0, llm=100.0)
    assert training_flops(forward) == Flops(3.0, 30.0, 300.0)
    assert training_flops(forward, ["connector", "llm"]) == Flops(1.0, 30.0, 300.0)
    assert training_flops(forward, ["connector"]) == Flops(1.0, 30.0, 200.0)
    assert training_flops(forward, ["vit"]) == Flops(3.0, 20.0, 200.0)


def test_training_is_about_three_forwards() -> None:
    config = MolmoConfig.new(**{**BASE, "vision_backbone": None})
    model = Molmo(config)
    ids = torch.randint(0, 80, (1, 32))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(ids, labels=ids).loss.backward()
    expected = training_flops(forward_flops(config, n_tokens=32, n_pairs=32**2, n_logits=32)).total
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_a_text_only_model_has_no_vision() -> None:
    config = MolmoConfig.new(**{**BASE, "vision_backbone": None})
    assert forward_flops(config, n_tokens=3, n_pairs=9).vit == 0.0


def test_negative_counts_are_refused() -> None:
    with pytest.raises(OLMoInputError, match="0 or more"):
        forward_flops(MolmoConfig.new(**BASE), n_tokens=-1, n_pairs=0)

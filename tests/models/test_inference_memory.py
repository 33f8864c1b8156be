"""The estimate of memory against what torch allocates while the same model answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import write_tokenizer

from olmo.exceptions import OLMoInputError
from olmo.models.auto import MODELS
from olmo.models.base import ModelBase
from olmo.models.inference_memory import InferenceMemory, Prompts, inference_memory
from olmo.models.live_bytes import LiveBytes
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.router import Routing

LLM = {
    "d_model": 128, "n_heads": 8, "n_kv_heads": 2, "n_layers": 3, "mlp_hidden_size": 352, "vocab_size": 1000,
    "max_sequence_length": 2048,
}  # fmt: skip
VISION = {
    "vit": {"image_size": 168, "d_model": 64, "n_heads": 4, "n_layers": 4, "mlp_hidden_size": 256},
    "vit_layers": [-2],
}
ROUTED = {"block_type": "olmoe", "n_experts": 8, "experts_per_token": 2, "qk_norm": True, "n_kv_heads": 8}

# name of the model, changes of its configuration, sizes
SHAPES: dict[str, tuple[str, dict[str, Any], Prompts]] = {
    "pictures": ("molmo", {}, Prompts(2, 400, 3, 8)),
    "long text": ("molmo", {}, Prompts(1, 1900)),
    "many rows": ("molmo", {"llm": {"weight_tying": True, "norm_after": True, "qk_norm": True}}, Prompts(16, 90, 0, 9)),
    "many crops": ("molmo", {}, Prompts(1, 500, 13, 4)),
    "two layers of features": ("molmo", {"vision_backbone": {"vit_layers": [-1, -3]}}, Prompts(3, 200, 4)),
    "both ways": ("molmo", {"bi_directional_attn": "within_image"}, Prompts(2, 500, 3)),
    "video": ("video_olmo", {"frame_batch_size": 4}, Prompts(1, 1200, 32, 8)),
    "video at once": ("video_olmo", {"frame_batch_size": None}, Prompts(1, 600, 16)),
    "a quarter of the tokens": ("he_molmo", {"selection_ratio": 0.25, "frame_batch_size": 2}, Prompts(2, 1600, 40)),
    "three quarters": ("he_molmo", {"selection_ratio": 0.75}, Prompts(1, 900, 6, 8)),
    "asks first": ("he_molmo", {"token_scorer": {"scorer": "lowres_llm"}}, Prompts(1, 500, 6)),
    "by the encoder": ("he_molmo", {"token_scorer": {"scorer": "vit_attention"}}, Prompts(1, 500, 6)),
    "experts": ("molmo", {"llm": ROUTED}, Prompts(2, 700, 2, 8)),
    "experts in a loop": ("molmo", {"llm": {**ROUTED, "moe_backend": "loop"}}, Prompts(2, 700, 2)),
}  # fmt: skip


def config_of(name: str, changes: dict[str, Any]) -> MolmoConfig:
    values = {
        "llm": {**LLM, **changes.get("llm", {})},
        "vision_backbone": {**VISION, **changes.get("vision_backbone", {})},
    }
    others = {key: value for key, value in changes.items() if key not in values}
    return MODELS[name].config_class.new(**values, **others)


def with_tokenizer(config: MolmoConfig, folder: Path) -> MolmoConfig:
    write_tokenizer(folder)
    config.llm.tokenizer.identifier = str(folder / "tokenizer.json")
    return config


def peak_bytes(action: Callable[[], object]) -> int:
    """The most bytes that torch had allocated at one time, of those that `action` asked for."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([n_bytes for _, n_bytes in changes]).max())


def answered(model: ModelBase, prompts: Prompts) -> int:
    """Bytes at the peak of a whole answer: random prompts, pixels among what is counted."""
    config, rng = model.config, torch.Generator().manual_seed(0)
    ids = torch.randint(0, 900, (prompts.batch_size, prompts.n_tokens), generator=rng)
    inputs: dict[str, Any] = {}
    if prompts.n_crops:
        spec, side = config.image_spec, config.vision_backbone.vit.spec.image_size
        n = min(spec.tokens_per_crop, (prompts.n_tokens - 1) // prompts.n_crops)
        places = torch.full((prompts.n_crops, spec.tokens_per_crop), -1)
        places[:, :n] = torch.arange(prompts.n_crops * n).view(prompts.n_crops, n)
        ids[:, : prompts.n_crops * n] = config.image_token_ids.patch
        shape = (prompts.batch_size, prompts.n_crops)
        inputs = {
            "images": torch.randn(*shape, 3, side, side, generator=rng).to(torch.float32),
            "image_masks": torch.ones(*shape, spec.grid**2),
            "image_input_idx": places.expand(*shape, -1),
        }
    pixels = inputs["images"].nbytes if inputs else 0
    new = {"max_new_tokens": prompts.n_new_tokens or 1, "eos_token_id": 999, "pad_token_id": 0, "min_new_tokens": 1}
    return pixels + peak_bytes(lambda: model.generate(ids, **inputs, **new))


@pytest.fixture
def experts_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each expert gets as many tokens as any other, as the estimate has it; a loop takes what its busiest takes."""

    def in_turn(logits: torch.Tensor, k: int, selection_bias: torch.Tensor | None = None) -> Routing:
        chosen = torch.arange(len(logits) * k).view(-1, k) % logits.shape[-1]
        probabilities = torch.softmax(logits, dim=-1)
        return Routing(logits, probabilities, probabilities.gather(-1, chosen), chosen)

    monkeypatch.setattr("olmo.nn.moe.route", in_turn)


@pytest.mark.usefixtures("experts_in_turn")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_within_a_twentieth_of_what_is_allocated(shape: str, tmp_path: Path) -> None:
    name, changes, prompts = SHAPES[shape]
    config, cls = with_tokenizer(config_of(name, changes), tmp_path), MODELS[name]
    model = cls(config).eval()
    found = inference_memory(config, cls, prompts)["fp32"]
    assert found.weights_bytes == sum(p.nbytes for p in model.parameters())
    peak = answered(model, prompts)
    print(shape, (found.cache_bytes + found.activation_bytes) / peak)
    assert found.cache_bytes + found.activation_bytes == pytest.approx(peak, rel=0.05)
    assert found.total_bytes == found.weights_bytes + found.cache_bytes + found.activation_bytes


@pytest.mark.parametrize("shape", ["pictures", "experts", "video"])
def test_the_estimate_holds_in_bfloat16(shape: str, tmp_path: Path) -> None:
    name, changes, prompts = SHAPES[shape]
    config, cls = with_tokenizer(config_of(name, changes), tmp_path), MODELS[name]
    found, peak = inference_memory(config, cls, prompts), answered(cls(config).bfloat16().eval(), prompts)
    assert found["bf16"].cache_bytes + found["bf16"].activation_bytes == pytest.approx(peak, rel=0.05)
    assert found["int8"].activation_bytes == found["bf16"].activation_bytes
    assert found["int8"].weights_bytes < found["bf16"].weights_bytes < found["fp32"].weights_bytes


def test_the_cache_is_that_of_prompt_and_answer():
    config = config_of("molmo", {})
    found = inference_memory(config, Molmo, Prompts(3, 50, 0, 14))["fp32"]
    assert found.cache_bytes == Molmo(config).llm.new_cache(3, 64).n_bytes == 2 * 3 * 2 * 16 * 64 * 4 * LLM["n_layers"]


def test_a_hemolmo_keeps_a_cache_of_the_tokens_that_stay():
    caches, prompts = [], Prompts(1, 900, 6)
    for ratio in (1.0, 0.5):
        config = config_of("he_molmo", {"selection_ratio": ratio})
        caches.append(inference_memory(config, MODELS["he_molmo"], prompts)["fp32"].cache_bytes)
    n_picture = 6 * config.image_spec.tokens_per_crop
    assert caches[1] / caches[0] == pytest.approx((900 - n_picture / 2) / 900)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (Prompts(0, 10), "a batch of 0"),
        (Prompts(1, 10, -1), "-1 crops"),
        (Prompts(1, 10, 10), "no room for 10 crops"),
        (Prompts(1, 2000, 0, 49), "context of 2048"),
    ],
)
def test_sizes_that_cannot_be_are_refused(prompts, message):
    with pytest.raises(OLMoInputError, match=message):
        inference_memory(config_of("molmo", {}), Molmo, prompts)


def test_a_text_only_model_takes_no_crops():
    with pytest.raises(OLMoInputError, match="text only"):
        inference_memory(config_of("molmo", {}).replace(vision_backbone=None), Molmo, Prompts(1, 10, 1))


def test_what_is_on_its_device_already_is_no_copy():
    with LiveBytes() as live:
        pixels = torch.empty(1000, device="meta")
        assert pixels.to("cpu") is not None and live.peak == 4000
        assert pixels.to("cpu", torch.bfloat16).dtype is torch.bfloat16
    assert live.peak == 6000


def test_what_is_alive_is_counted_and_let_go():
    with LiveBytes() as live:
        first = torch.empty(1000, device="meta")
        assert live.now == 4000
        second = first + 1
        assert (live.now, live.peak) == (8000, 8000)
        view = second.view(10, 100)
        del first, second
        assert (live.now, live.peak) == (4000, 8000), "the view keeps what it looks at"
        del view
        assert live.now == 0
    torch.empty(5000, device="meta")
    assert live.peak == 8000


def test_numbers_that_are_there_meet_those_that_are_not():
    with LiveBytes():
        scores = torch.empty(6, 4, device="meta")
        order = scores.argsort(dim=1)
        best = scores.topk(2).indices
        kept = scores[torch.tensor([True, False, True, True, False, False])]
        mixed = scores * torch.ones(4)
    assert order.tolist() == [[0, 1, 2, 3]] * 6, "as if sorted already"
    assert torch.bincount(best.flatten()).tolist() == [3, 3, 3, 3], "each as often as any other"
    assert kept.shape == (3, 4) and kept.is_meta and mixed.is_meta


def test_the_total_is_a_sum():
    assert InferenceMemory(1, 20, 300).total_bytes == 321

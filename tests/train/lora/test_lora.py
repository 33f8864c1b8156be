"""Adapters: they change nothing at first, they alone learn, and saved, loaded, merged or read by peft they are equal.

Merged and adapted models agree to 1e-5.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.adapters import merge_adapter
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.int8_linear import Int8Linear
from olmo.train.lora.adapters import (
    apply_lora,
    has_lora,
    load_adapter,
    lora_layers,
    merge_lora,
    save_adapter,
    trainable_components,
)
from olmo.train.lora.config import LoraConfig
from olmo.train.run import build_trainer

peft = pytest.importorskip("peft")

ALL = ["llm", "vit", "connector"]
Make = Callable[[], Molmo]


@pytest.fixture
def make(recipe: Path) -> Make:
    """Builds the tiny model of the recipe, each time with the same weights."""
    return lambda: Molmo(MolmoConfig.load(recipe.parent / "model"), seed=1).eval()


@torch.no_grad()
def logits(model: Molmo) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat((torch.tensor([[model.tokenizer.im_patch_id] * 36]), torch.arange(1, 20)[None]), 1)
    index = torch.arange(36).view(1, 1, 36)
    pixels = torch.randn(1, 1, 3, 84, 84, generator=generator)
    return model(ids, pixels, image_input_idx=index).logits


def stir(model: Molmo) -> None:
    """Give everything that learns other values, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@pytest.mark.parametrize("parts", [["llm"], ["vit"], ["connector"], ALL])
def test_fresh_adapters_change_nothing_and_alone_learn(make, parts):
    model = make()
    expected = logits(model)
    apply_lora(model, LoraConfig(rank=2, parts=parts))
    assert torch.equal(logits(model), expected)
    learning = trainable_components(model)
    assert set(learning) == set(parts)
    assert all(".lora_" in name for parameters in learning.values() for name in parameters)
    stir(model)
    assert not torch.allclose(logits(model), expected)


@pytest.mark.parametrize(("kind", "expected"), [("sequential", {"ff_proj", "ff_out"}), ("olmoe", set())])
def test_head_router_and_patches_get_no_adapter(recipe, kind, expected):
    overrides = [f"llm.block_type={kind}", "llm.n_experts=4", "llm.experts_per_token=2", "llm.weight_tying=false"]
    model = Molmo(MolmoConfig.load(recipe.parent / "model", overrides))
    apply_lora(model, LoraConfig(parts=ALL))
    names = {name.rsplit(".", 1)[-1] for name in lora_layers(model)}
    assert names == {"att_proj", "attn_out", "wqkv", "wo", "w1", "w2", "image_projector", *expected}


def test_chosen_layers_alone(make):
    model = make()
    apply_lora(model, LoraConfig(target_modules=["att_proj"]))
    assert set(lora_layers(model)) == {f"llm.blocks.{i}.attention.att_proj" for i in range(2)}


@pytest.mark.parametrize("base", ["none", "int8"])
def test_merged_equals_adapted(make, base):
    model = make()
    apply_lora(model, LoraConfig(rank=2, parts=ALL, base=base))
    stir(model)
    expected, keys = logits(model), make().state_dict().keys()
    merge_lora(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert model.state_dict().keys() == keys
    assert not has_lora(model) and all(p.requires_grad for p in model.parameters())
    apply_lora(model, LoraConfig(rank=3))  # and a second one may follow


def test_saved_alone_it_is_merged_loaded_and_read_by_peft(make, tmp_path):
    model = make()
    apply_lora(model, LoraConfig(rank=2, alpha=3.0, parts=["llm", "vit"], whole_parts=["connector"]))
    stir(model)
    save_adapter(model, tmp_path / "adapter", "runs/base")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    expected = logits(model)

    merged = make()
    merge_adapter(merged, tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)

    again = make()
    config = LoraConfig(rank=2, alpha=3.0, parts=["llm", "vit"], whole_parts=["connector"])
    apply_lora(again, config.replace(init_from=str(tmp_path / "adapter")), seed=9)
    assert torch.equal(logits(again), expected)

    by_peft = peft.PeftModel.from_pretrained(make(), tmp_path / "adapter")
    assert torch.equal(logits(by_peft.get_base_model()), expected)


def test_one_written_by_peft_is_merged(make, tmp_path):
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["att_proj", "wqkv"], init_lora_weights=False)
    model = peft.get_peft_model(make(), settings)
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(model.eval().get_base_model())
    merged = make()
    merge_adapter(merged, tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)


def test_one_seed_gives_one_adapter_and_leaves_the_generator_alone(make):
    models = [make() for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (4, 4, 5), strict=True):
        apply_lora(model, LoraConfig(rank=2), seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (model.state_dict() for model in models)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_an_int8_base_is_narrow(make):
    wide, narrow = make(), make()
    apply_lora(wide, LoraConfig(rank=2, parts=ALL))
    apply_lora(narrow, LoraConfig(rank=2, parts=ALL, base="int8"))
    for name, layer in lora_layers(narrow).items():
        base = layer.get_base_layer()
        assert isinstance(base, Int8Linear) and base.weight.dtype is torch.int8
        assert base.weight.nbytes * 4 == lora_layers(wide)[name].get_base_layer().weight.nbytes
    difference = (logits(wide) - logits(narrow)).abs().max()
    assert 0 < difference < 0.05 * logits(wide).abs().max()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rank": 0}, "rank: must be at least 1"),
        ({"alpha": 0.0}, "alpha: must be above 0"),
        ({"dropout": 1.0}, "dropout: must be from 0"),
        ({"parts": []}, "parts: names no part"),
        ({"parts": ["eye"]}, "'eye' is not one of 'llm'"),
        ({"whole_parts": ["llm"]}, "whole_parts: llm stands in parts"),
    ],
)
def test_a_configuration_that_cannot_be_meant(values, match):
    with pytest.raises(OLMoConfigurationError, match=match):
        LoraConfig.new(**values)


def test_errors_say_what_to_do(make, tmp_path, monkeypatch):
    model = make()
    with pytest.raises(OLMoConfigurationError, match=r"q_proj: no such linear layer in llm; there are att_proj, att"):
        apply_lora(model, LoraConfig(target_modules=["q_proj"]))
    for call in (lambda: save_adapter(model, tmp_path / "a"), lambda: merge_lora(model)):
        with pytest.raises(OLMoConfigurationError, match="there are no adapters on the model"):
            call()
    apply_lora(model, LoraConfig(rank=2))
    with pytest.raises(OLMoConfigurationError, match="has adapters already; merge them"):
        apply_lora(model, LoraConfig(rank=2))
    save_adapter(model, tmp_path / "a")
    other = make()
    apply_lora(other, LoraConfig(rank=3))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(OLMoCheckpointError, match=r"\(rank 2, alpha 32.0\) is not of the shape"):
        load_adapter(other, tmp_path / "a")
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(OLMoCheckpointError, match=r"holds notes.txt, .* would be lost"):
        save_adapter(model, tmp_path / "a")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(OLMoConfigurationError, match=r"LoRA needs peft .*pip install 'molmo\[lora\]'"):
        apply_lora(make(), LoraConfig())


# -- in a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["none", "int8"])
def test_a_run_learns_resumes_exactly_and_exports_the_adapter(change, tmp_path, base):
    lora = {"rank": 4, "parts": ["llm", "vit"], "whole_parts": ["connector"], "base": base}
    recipe = change(lora=lora, optimizer={part: {"lr": 2e-2, "warmup_steps": 0} for part in ALL})
    whole = build_trainer(recipe, [f"run_dir={tmp_path / 'whole'}"])
    frozen = {n: p.clone() for n, p in whole.task.model.state_dict().items() if "base_layer" in n or "wte.emb" in n}
    whole.fit()
    end = whole.task.model.state_dict()
    assert frozen and all(torch.equal(end[name], tensor) for name, tensor in frozen.items())

    shutil.rmtree(tmp_path / "whole" / "step00000006")  # as if the run had been stopped after step 3
    rest = build_trainer(recipe, [f"run_dir={tmp_path / 'whole'}"])
    rest.fit()
    assert rest.step == 6
    state = rest.task.model.state_dict()
    assert state.keys() == end.keys() and all(torch.equal(state[name], end[name]) for name in end)

    config = json.loads((tmp_path / "whole" / "final" / "adapter_config.json").read_text())
    assert config["r"] == 4
    if base == "none":
        merged = Molmo(MolmoConfig.load(tmp_path / "model"), seed=6198).eval()
        merge_adapter(merged, tmp_path / "whole" / "final")
        torch.testing.assert_close(logits(merged), logits(whole.task.model.eval()), atol=1e-5, rtol=0)

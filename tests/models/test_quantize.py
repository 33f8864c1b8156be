"""Quantised models: what is narrow, memory while loading, answers of what was saved, and what is refused."""

from __future__ import annotations

import weakref

import pytest
import torch
from safetensors.torch import save_file
from tiny import build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.adapters import merge_adapter
from olmo.models.auto import from_pretrained
from olmo.models.bundled import bundled_model_folder
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.quantization.config import QuantizationConfig, Scheme
from olmo.quantization.layers import module_bytes, narrow_layers

SCHEMES = pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int4"])
FITTING = {"llm__mlp_hidden_size": 64}  # widths that 4 bits take


@torch.no_grad()
def logits(model, inputs) -> torch.Tensor:
    return model(inputs["input_ids"], images=inputs["images"], image_input_idx=inputs["image_input_idx"]).logits


@pytest.fixture
def saved(make_config, tmp_path):
    """A tiny model in full precision, and its folder."""
    model = build(make_config(**FITTING), seed=1)
    model.save_checkpoint(tmp_path / "wide")
    return model, tmp_path / "wide"


@SCHEMES
def test_p31_read_or_changed_it_is_the_same_model_and_so_is_what_was_saved(saved, inputs, scheme, tmp_path):
    model, folder = saved
    wide, n_params = logits(model, inputs), model.num_params()
    read, changed = Molmo.from_pretrained(folder, quantize=scheme), model.quantize(scheme)
    kinds = ("attention.att_proj", "attention.attn_out", "mlp.ff_proj", "mlp.ff_out")
    assert list(narrow_layers(read)) == [f"llm.blocks.{i}.{kind}" for i in (0, 1) for kind in kinds]
    assert read.num_params() == n_params
    narrow = logits(read, inputs)
    assert torch.equal(logits(changed, inputs), narrow)
    assert 0 < (narrow - wide).std() < (0.5 if scheme == "int4" else 0.1) * wide.std()
    read.save_checkpoint(tmp_path / "narrow")
    assert torch.equal(logits(read, inputs), narrow), "saving changes nothing"
    again = from_pretrained(tmp_path / "narrow")
    assert again.config.quantization == QuantizationConfig(scheme=scheme)
    assert torch.equal(logits(again, inputs), narrow)
    ids = inputs["input_ids"]
    assert torch.equal(again.generate(ids, max_new_tokens=8).token_ids, read.generate(ids, max_new_tokens=8).token_ids)


def test_halves_load_back_with_equal_answers(saved, inputs, tmp_path):
    model = Molmo.from_pretrained(saved[1], quantize="int8", dtype="bfloat16")
    model.save_checkpoint(tmp_path / "narrow")
    again = Molmo.from_pretrained(tmp_path / "narrow", dtype="auto")
    assert again.dtype is torch.bfloat16
    assert torch.equal(logits(again, inputs), logits(model, inputs))


def test_a_released_folder_is_quantised_as_it_is_read(make_config, inputs, tmp_path):
    model = build(make_config(vision_backbone__vit__image_model_type="openai"), seed=1)
    model.save_pretrained_hf(tmp_path / "hf")
    read = Molmo.from_pretrained(tmp_path / "hf", quantize="int8")
    read_wide = Molmo.from_pretrained(tmp_path / "hf").quantize("int8")
    assert torch.equal(logits(read, inputs), logits(read_wide, inputs))
    with pytest.raises(OLMoCheckpointError, match="released layout has no place for quantised matrices"):
        read.save_pretrained_hf(tmp_path / "back")


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still there; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta and tensor.layout is torch.strided:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, n_bytes = storage.data_ptr(), storage.nbytes()
        if not n_bytes or place in self._seen:
            return
        self._seen.add(place)
        self.live += n_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, place, n_bytes)

    def _forget(self, place: int, n_bytes: int) -> None:
        self._seen.discard(place)
        self.live -= n_bytes


@pytest.mark.parametrize("form", ["native", "released"])
def test_weights_are_never_all_there_in_full_precision(make_config, tmp_path, form):
    """The most that is alive while reading is the narrow model and a part of the wide one."""
    config = make_config(llm__n_layers=12, llm__d_model=64, llm__mlp_hidden_size=256, vision_backbone=None)
    model = build(config)
    if form == "native":
        model.save_checkpoint(tmp_path / "m")
    else:
        model.save_pretrained_hf(tmp_path / "m")
    wide = module_bytes(model)
    with LiveBytes() as whole:
        Molmo.from_pretrained(tmp_path / "m")
    assert whole.peak >= wide, "the count sees what is loaded"
    with LiveBytes() as counted:
        narrow = Molmo.from_pretrained(tmp_path / "m", quantize="int8")
    assert module_bytes(narrow) < 0.4 * wide
    assert counted.peak < module_bytes(narrow) + 0.3 * wide


def test_a_quantised_folder_holds_no_wide_matrix(saved, tmp_path):
    Molmo.from_pretrained(saved[1], quantize="int8").save_checkpoint(tmp_path / "narrow", sharded=False)
    sizes = [sum(f.stat().st_size for f in folder.rglob("*.safetensors")) for folder in (tmp_path / "narrow", saved[1])]
    assert sizes[0] < sizes[1]
    assert "scheme: int8" in (tmp_path / "narrow" / "config.yaml").read_text()


def test_p31_strict_names_what_differs(saved, tmp_path):
    wide = saved[0]
    narrow = Molmo.from_pretrained(saved[1], quantize="int8")
    narrow.save_checkpoint(tmp_path / "narrow")
    with pytest.raises(
        OLMoCheckpointError, match=r"unexpected in the checkpoint: llm\.blocks\.0\.attention\.att_proj\.scale"
    ):
        wide.load_checkpoint(tmp_path / "narrow")
    with pytest.raises(OLMoCheckpointError, match=r"missing from the checkpoint: llm\.blocks\.1\.mlp\.ff_out\.scale"):
        narrow.load_checkpoint(saved[1])
    with pytest.raises(OLMoCheckpointError, match=r"llm\.blocks\.0\.mlp\.ff_out\.weight is \[32, 64\].* \[32, 32\]"):
        Molmo.from_pretrained(saved[1], quantize="int4").load_checkpoint(tmp_path / "narrow")


def test_weights_of_a_packed_model_can_be_loaded_anew(make_config, saved, inputs, tmp_path):
    first, second = saved[0].quantize("int4"), build(make_config(**FITTING), seed=2).quantize("int4")
    first.save_checkpoint(tmp_path / "narrow")
    logits(second, inputs)  # packed
    second.load_checkpoint(tmp_path / "narrow")
    assert torch.equal(logits(second, inputs), logits(first, inputs))


def test_what_is_kept_and_included(saved):
    model = saved[0].quantize("int8", keep=["llm.blocks.0"], include=["vision_backbone.image_vit", "llm.lm_head"])
    names = list(narrow_layers(model))
    assert "llm.lm_head" in names and any(name.startswith("vision_backbone.image_vit.blocks.0") for name in names)
    assert not any(name.startswith("llm.blocks.0.") for name in names)
    assert "vision_backbone.image_vit.patch_embedding" not in names


def test_routers_stay_wide(make_config):
    model = build(make_config(llm__block_type="olmoe", llm__n_experts=4)).quantize("int8")
    assert not any("router" in name for name in narrow_layers(model))
    with pytest.raises(OLMoConfigurationError, match=r"include: .*router.* is the name of no linear layer"):
        build(make_config(llm__block_type="olmoe", llm__n_experts=4)).quantize("int8", include=["*.router"])


def test_a_variant_is_quantised_like_a_molmo(saved):
    model = HeMolmo.from_pretrained(saved[1], quantize=QuantizationConfig(scheme="int8", include=["vision_backbone"]))
    assert not any(name.startswith("token_selector") for name in narrow_layers(model))
    assert len(narrow_layers(model)) > 8


def test_a_configuration_that_says_so_makes_a_quantised_model(make_config):
    model = Molmo(make_config(quantization={"scheme": "int8"}))
    assert narrow_layers(model) and not model.training
    assert all(torch.isfinite(layer.scale).all() for layer in narrow_layers(model).values())


def test_what_a_quantised_model_refuses(saved, adapter_folder, tmp_path):
    model = saved[0].quantize("int8")
    with pytest.raises(OLMoConfigurationError, match=r"quantised already \(int8\)"):
        model.quantize("int4")
    with pytest.raises(OLMoConfigurationError, match="a quantised model does not learn"):
        model.train()
    with pytest.raises(OLMoCheckpointError, match="cannot be added to a quantised model"):
        merge_adapter(model, adapter_folder)
    model.save_checkpoint(tmp_path / "narrow")
    with pytest.raises(OLMoConfigurationError, match="narrow is quantised already"):
        Molmo.from_pretrained(tmp_path / "narrow", quantize="int8")
    with pytest.raises(OLMoConfigurationError, match="was saved as int8 and loads as nothing else"):
        Molmo.from_pretrained(tmp_path / "narrow", overrides=["quantization.scheme=int4"])
    with pytest.raises(OLMoConfigurationError, match="'int3' is not one of 'int8'"):
        Molmo.from_pretrained(saved[1], quantize="int3")


@pytest.fixture
def adapter_folder(tmp_path):
    """An adapter of a layer that the tiny model has."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    layer = "base_model.model.llm.blocks.0.mlp.ff_out"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 64), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1.0}')
    return folder


def test_torchao_is_for_loading_alone(saved, tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    config = QuantizationConfig(scheme=Scheme.int8, kernels="torchao")
    model = Molmo.from_pretrained(saved[1], quantize=config, dtype="bfloat16")
    assert torch.isfinite(model(torch.tensor([1, 2, 3])).logits).all()
    with pytest.raises(OLMoConfigurationError, match="matrices quantised by torchao are not saved"):
        model.save_checkpoint(tmp_path / "no")


def test_p31_the_bundled_model_keeps_its_choices_in_a_quarter_of_the_memory():
    """Linear weights at most 30 % of float32, and the same likeliest token at 90 % of positions."""
    folder = bundled_model_folder()
    wide, narrow = Molmo.from_pretrained(folder), Molmo.from_pretrained(folder, quantize="int8")
    layers = narrow_layers(narrow)
    assert sum(module_bytes(one) for one in layers.values()) <= 0.3 * sum(
        4 * one.in_features * one.out_features for one in layers.values()
    )
    text = "How many cups are there? There are 3 cups. Point to the red cup. What is left of the ball? A green cube."
    ids = torch.tensor(wide.tokenizer.encode(text))
    with torch.no_grad():
        same = wide(ids).logits.argmax(-1) == narrow(ids).logits.argmax(-1)
    assert same.float().mean() >= 0.9


def test_the_configuration_is_read_and_written(make_config, tmp_path):
    config = make_config(quantization={"scheme": "int8_dynamic", "keep": ["llm.blocks.0"]})
    config.save(tmp_path)
    assert MolmoConfig.load(tmp_path).quantization == config.quantization

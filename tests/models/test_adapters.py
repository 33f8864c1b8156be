"""Adapters are read and merged without `peft`, or refused before anything is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import build, write_config

from olmo.exceptions import OLMoCheckpointError
from olmo.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, KEY_PREFIX, merge_adapter, read_adapter
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig

LAYER = "llm.blocks.1.attention.attn_out"


@pytest.fixture
def model(tmp_path: Path) -> Molmo:
    return build(MolmoConfig.load(write_config(tmp_path / "model")))


def write_adapter(folder: Path, layer: str = LAYER, width: int = 32, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{KEY_PREFIX}{layer}.lora_A.weight": torch.randn(4, width, generator=generator),
        f"{KEY_PREFIX}{layer}.lora_B.weight": torch.randn(32, 4, generator=generator),
        f"{KEY_PREFIX}llm.ln_f.weight": torch.full((32,), 0.5),
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "that/model", **config}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(("is_root", "scale"), [(False, 2.0), (True, 4.0)])
def test_merging_adds_the_scaled_product(model, tmp_path, is_root, scale):
    folder = write_adapter(tmp_path / "adapter", use_rslora=is_root)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_adapter(model, folder)
    down, up = read_adapter(folder).pairs[LAYER]
    torch.testing.assert_close(model.state_dict()[f"{LAYER}.weight"], before[f"{LAYER}.weight"] + scale * up @ down)
    assert (model.llm.ln_f.weight == 0.5).all()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{LAYER}.weight", "llm.ln_f.weight"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": "llm.blocks.7.mlp.ff_out"}, r"made for that/model\); nothing was changed: the model has no"),
        ({"width": 31}, r"is \[32, 32\] in the model, \[32, 31\] in the adapter"),
    ],
)
def test_an_adapter_of_another_model_changes_nothing(model, tmp_path, options, match):
    folder = write_adapter(tmp_path / "adapter", **options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(OLMoCheckpointError, match=match):
        merge_adapter(model, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"use_dora": True}, "asks for DoRA, which is not known here; merge it with peft"),
        ({"rank_pattern": {"x": 2}}, "ranks by layer"),
        ({"bias": "all"}, "trained biases"),
        ({"peft_type": "IA3"}, "no LoRA adapter"),
        ({"r": 0}, "no LoRA adapter"),
    ],
)
def test_other_kinds_are_refused(tmp_path, config, match):
    with pytest.raises(OLMoCheckpointError, match=match):
        read_adapter(write_adapter(tmp_path / "adapter", **config))


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(OLMoCheckpointError, match="is missing; give the folder of an adapter"):
        read_adapter(tmp_path)
    folder = write_adapter(tmp_path / "adapter")
    weights = (folder / ADAPTER_WEIGHTS).read_bytes()
    (folder / ADAPTER_WEIGHTS).write_bytes(weights[:-9])
    with pytest.raises(OLMoCheckpointError, match="cut or damaged"):
        read_adapter(folder)
    save_file({f"{KEY_PREFIX}{LAYER}.lora_A.weight": torch.zeros(4, 32)}, folder / ADAPTER_WEIGHTS)
    with pytest.raises(OLMoCheckpointError, match=f"not a whole adapter \\({LAYER}"):
        read_adapter(folder)
    (folder / ADAPTER_CONFIG).write_text("[]")
    with pytest.raises(OLMoCheckpointError, match="cannot be read"):
        read_adapter(folder)

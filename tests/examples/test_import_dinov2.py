"""A DINOv2 encoder as PyTorch's ONNX export stores it becomes a folder that transformers reads, equal to the bit.

The file itself is read by the package `onnx`, which the test does without: it hands in what that would give.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from olmo.models.molmo.base_vit import vit_spec_overrides_from_hf

transformers = pytest.importorskip("transformers")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "import_dinov2.py"
RENAMED = {
    "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("import_dinov2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def original():
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
        model.embeddings.mask_token.zero_()
    return model


def exported(model) -> tuple[dict[str, np.ndarray], list[tuple[str, list[str]]]]:
    """Tensors and products of the export: matrices unnamed and turned, the position table in two."""
    stored, products = {"decoder.conv.weight": np.zeros((1, 2, 2), np.float32)}, []
    for name, tensor in model.state_dict().items():
        for ours, old in RENAMED.items():
            name = name.replace(ours, old)
        array = tensor.numpy()
        if name == "embeddings.position_embeddings":
            stored |= {"onnx::Concat_1": array[:, :1], "onnx::Reshape_2": array[:, 1:]}
        elif name.startswith("encoder.") and array.ndim == 2:
            key = f"onnx::MatMul_{len(stored)}"
            stored[key] = np.ascontiguousarray(array.T)
            module = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            products.append((f"/backbone/{module}/MatMul", ["/activation", key]))
        elif name != "embeddings.mask_token":
            stored[f"backbone.{name}"] = array
    return stored, [*products, ("/decoder/MatMul", ["a", "b"])]


def test_the_folder_computes_what_the_original_does(script, original, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "read_graph", lambda path: exported(original))
    script.convert(Path("any.onnx"), tmp_path / "vit")
    again = transformers.Dinov2Model.from_pretrained(tmp_path / "vit", dtype=torch.float32).eval()
    pixels = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(pixels).last_hidden_state, original(pixels).last_hidden_state)
    spec = vit_spec_overrides_from_hf(json.loads((tmp_path / "vit" / "config.json").read_text())).spec
    assert (spec.image_size, spec.n_layers, spec.n_heads, spec.mlp_hidden_size) == (70, 2, 2, 512)


def test_a_file_without_a_position_table_is_refused(script, original):
    stored, products = exported(original)
    del stored["onnx::Reshape_2"]
    with pytest.raises(SystemExit, match="no position table"):
        script.read_tensors(stored, products)

"""A Molmo started from a published language model and picture encoder computes what they compute (transformers).

float32, tolerance 1e-4; measured worst case of five seeds 4.3e-6 (logits), 3.8e-6 (features).
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.base_llm import llm_config_from_hf
from olmo.models.molmo.base_weights import load_llm_and_vit
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.image_vit import patchify

transformers = pytest.importorskip("transformers")

VIT = {"image_size": 28, "patch_size": 14, "d_model": 32, "n_heads": 2, "n_layers": 3, "mlp_hidden_size": 48}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Tiny Qwen2 and CLIP folders as transformers writes them, and the models themselves."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    llm = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                 num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
                                 initializer_range=0.3)
    ).eval()  # fmt: skip
    vit = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
                                      image_size=28, patch_size=14)
    ).eval()  # fmt: skip
    llm.save_pretrained(folder / "llm", max_shard_size="20KB")
    vit.save_pretrained(folder / "vit")
    return folder, llm, vit


def build(folder, **changes):
    hf = json.loads((folder / "llm" / "config.json").read_text())
    llm = {**llm_config_from_hf(hf).asdict(), **changes}
    vision = {"vit": VIT, "vit_layers": [-1]}
    config = MolmoConfig.new(llm=llm, vision_backbone=vision, mm_preprocessor={"crop_mode": "resize"})
    return Molmo(config, seed=3).eval()


def test_both_parts_compute_what_the_published_models_compute(published):
    folder, llm, vit = published
    model = build(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_llm_and_vit(model, folder / "llm", folder / "vit")
    ids = torch.randint(0, 60, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llm(ids).logits, atol=1e-4, rtol=0)
        pixels = torch.randn(2, 3, 28, 28)
        ours = model.vision_backbone.image_vit(patchify(pixels, 14), layers=(-1,))[0]
        theirs = vit(pixels, output_hidden_states=True).hidden_states[3][:, 1:]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    for name, tensor in model.state_dict().items():
        is_new = name.startswith("vision_backbone.connector.") or name == "llm.wte.new_embedding"
        assert not is_new or torch.equal(tensor, before[name]), name


def test_each_part_alone(published):
    folder = published[0]
    model = build(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_llm_and_vit(model, vit=folder / "vit")
    assert torch.equal(model.llm.wte.embedding, before["llm.wte.embedding"])
    assert not torch.equal(model.vision_backbone.image_vit.positional_embedding,
                           before["vision_backbone.image_vit.positional_embedding"])  # fmt: skip
    load_llm_and_vit(model, llm=folder / "llm")
    assert not torch.equal(model.llm.wte.embedding, before["llm.wte.embedding"])


def test_nothing_changes_where_one_part_does_not_fit(published, tmp_path):
    folder = published[0]
    model = build(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (tmp_path / "vit").mkdir()
    tensors = load_file(folder / "vit" / "model.safetensors")
    name = next(n for n in tensors if n.endswith("fc1.bias"))
    tensors[name] = torch.ones(7)
    save_file(tensors, tmp_path / "vit" / "model.safetensors")
    (tmp_path / "vit" / "config.json").write_text((folder / "vit" / "config.json").read_text())
    with pytest.raises(OLMoCheckpointError, match=r"is \[7\] in the checkpoint and \[48\] in the model"):
        load_llm_and_vit(model, folder / "llm", tmp_path / "vit")
    with pytest.raises(OLMoCheckpointError, match="in the model"):
        load_llm_and_vit(build(folder, vocab_size=61, embedding_size=61), folder / "llm")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_missing_configuration_is_named(published, tmp_path):
    with pytest.raises(OLMoCheckpointError, match=r"config.json is missing"):
        load_llm_and_vit(build(published[0]), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OLMoCheckpointError, match="cannot be read"):
        load_llm_and_vit(build(published[0]), tmp_path)

"""A run that starts from a published language model and encoder: first the connector learns, then everything."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from olmo.models.molmo.base_llm import llm_config_from_hf
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.train.run import build_trainer

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "configs" / "molmo-nano"


@pytest.fixture
def from_parts(change, tmp_path: Path) -> Path:
    """The recipe, with a tiny Llama and a tiny DINOv2 to start from and a model that names no tokenizer."""
    torch.manual_seed(0)
    llm = transformers.LlamaConfig(
        vocab_size=832, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    transformers.LlamaForCausalLM(llm).save_pretrained(tmp_path / "llm")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, tmp_path / "llm" / name)
    vit = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=84, patch_size=14
    )
    transformers.Dinov2Model(vit).save_pretrained(tmp_path / "vit")

    (tmp_path / "parts").mkdir()
    model = yaml.safe_load((ROOT / "configs" / "molmo-smol" / "config.yaml").read_text())
    published = llm_config_from_hf(json.loads((tmp_path / "llm" / "config.json").read_text())).asdict()
    model["llm"] = {**published, "additional_vocab_size": 8}
    model["vision_backbone"]["vit"] |= {
        "image_size": 84, "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 128,
    }  # fmt: skip
    model["vision_backbone"]["vit_layers"] = [-1, -2]
    (tmp_path / "parts" / "config.yaml").write_text(yaml.safe_dump(model))
    late = {"lr": 1e-3, "warmup_steps": 0, "first_step": 1}
    return change(
        model="parts",
        init_llm=str(tmp_path / "llm"),
        init_vit=str(tmp_path / "vit"),
        max_steps=2,
        optimizer={"connector": {"lr": 1e-3, "warmup_steps": 0}, "vit": late, "llm": late},
    )


def test_the_connector_learns_first_then_everything(from_parts, tmp_path):
    trainer = build_trainer(from_parts)
    model = trainer.task.model
    published = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "llm").state_dict()
    assert torch.equal(model.llm.wte.embedding, published["model.embed_tokens.weight"])
    assert model.tokenizer.encode("a cat") == build_trainer(from_parts).task.model.tokenizer.encode("a cat")

    def snapshot() -> dict[str, torch.Tensor]:
        return {part: torch.cat([p.detach().flatten() for p in ps.values()]) for part, ps in model.components().items()}

    trainer.start()
    states = [snapshot()]
    for batch in trainer.batches():
        trainer.train_step(batch)
        states.append(snapshot())
    trainer.close()
    moved = [{p for p in a if not torch.equal(a[p], b[p])} for a, b in itertools.pairwise(states)]
    assert moved == [{"connector"}, {"connector", "vit", "llm"}]


def test_what_is_exported_has_the_tokenizer_beside_it(from_parts, tmp_path):
    build_trainer(from_parts, ["max_steps=1"]).fit()
    shutil.rmtree(tmp_path / "llm")
    assert Molmo.from_pretrained(tmp_path / "run" / "final").tokenizer.encode("a cat")


def test_the_recipe_and_its_model_fit_the_published_sizes():
    """`configs/smol.yaml` as it is, without weights: sizes that the two published parts have."""
    config = yaml.safe_load((ROOT / "configs" / "molmo-smol" / "config.yaml").read_text())
    assert (config["llm"]["d_model"], config["llm"]["n_layers"], config["llm"]["vocab_size"]) == (576, 30, 49152)
    with torch.device("meta"):
        model = Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-smol"))
    assert sum(p.numel() for p in model.components()["llm"].values()) == 134_515_008
    assert model.config.image_spec.grid == 16

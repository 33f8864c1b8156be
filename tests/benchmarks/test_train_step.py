"""Both sides of the training benchmark do the same work, at tiny size."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.presets import preset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=2", "llm.mlp_hidden_size=48",
    "vision_backbone.vit.d_model=32", "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=3",
    "vision_backbone.vit.mlp_hidden_size=48", "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("n_questions", [1, 4])
def test_both_sides_have_the_same_loss_and_gradient(scripts, n_questions):
    pair, script = scripts("train_pair"), scripts("train_step")
    model = Molmo(MolmoConfig.load(script.NANO, ["llm.qk_norm=false", *TINY]), seed=0).train()
    plain = pair.PlainMolmo(model).train()
    pair.share_weights(plain, model)
    batch = script.scenes_batch(model.config, n_questions, batch_size=2)
    assert ("subsegment_ids" in batch) == (n_questions > 1)
    ours, theirs = model(**batch, logits_at="labels").loss, plain(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    ours.backward()
    theirs.backward()
    pairs = (
        (model.llm.blocks[0].mlp.ff_out.weight, plain.llm.model.layers[0].mlp.down_proj.weight),
        (model.vision_backbone.image_vit.blocks[0].attention.wo.weight,
         plain.vit.get_parameter("encoder.layers.0.self_attn.out_proj.weight")),
        (model.vision_backbone.connector.image_projector.weight, plain.connector.image_projector.weight),
        (model.llm.wte.new_embedding, plain.new_embedding),
    )  # fmt: skip
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["molmo-7b-d", "molmoe-1b"])
def test_batches_without_a_tokenizer_fit_the_large_shapes(scripts, name):
    script = scripts("train_step")
    config = preset(name)
    narrow = {"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 32, "vocab_size": 300}
    routed = {"n_experts": 4, "experts_per_token": 2} if name == "molmoe-1b" else {}
    vit = config.vision_backbone.vit.replace(d_model=32, n_heads=2, mlp_hidden_size=32, n_layers=9, image_size=112)
    config = config.replace(
        llm=config.llm.replace(**narrow, **routed, embedding_size=320, residual_dropout=0.0),
        vision_backbone=config.vision_backbone.replace(vit=vit),
        mm_preprocessor=config.mm_preprocessor.replace(max_crops=2, overlap_margins=[0, 0]),
    )
    batch = script.made_up_batch(config, batch_size=2, n_text=12, device=torch.device("cpu"))
    row = script.measure("tiny", Molmo(config, seed=0), batch, 1, 1e9)
    assert row.ours > 0 and row.peer is not None and row.extra is not None
    assert row.extra["tokens"] == batch["input_ids"].numel()
    assert (row.extra["loss_difference"] is None) == (name == "molmoe-1b")


def test_the_script_measures_a_tiny_model(scripts, capsys, monkeypatch):
    script, harness = scripts("train_step"), scripts("harness")
    monkeypatch.setattr(script, "matmul_peak", lambda: 1e11)
    monkeypatch.setattr(harness, "commit", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script.run(argparse.Namespace(quick=True, save=False, threads=1, batch_size=2, workers=0), TINY)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == "train_step" and [row["case"] for row in result["rows"]] == [
        "one question a picture, batch 2",
        "8 questions a picture, batch 2",
    ]
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["mfu"] > 0 for row in result["rows"])
    assert all(row["loss_difference"] < 1e-5 for row in result["rows"])
    assert 0 <= result["waiting_for_data"]["share"] < 1

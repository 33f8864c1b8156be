"""Grounded language training: picture tokens learn to name what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from learning import learned_by_heart
from PIL import Image

from olmo.data.scenes import concepts, make_scene
from olmo.data.scenes.patch_targets import patch_targets
from olmo.exceptions import OLMoConfigurationError
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.train.run import build_trainer
from olmo.train.tasks.grounding import IGNORE, PICTURE_WORDS, GroundedLanguageTask, PatchWords

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def grounded(recipe: Path) -> Path:
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**values, "task": "grounded_language"}))
    return recipe


def test_words_name_the_thing_and_its_point() -> None:
    tokenizer = MolmoConfig.load(ROOT / "configs" / "molmo-nano").build_tokenizer()
    scene = next(s for s in map(make_scene, range(50)) if s.word is not None and len(s.objects) > 3)
    words, shown = PatchWords(tokenizer, 12)(scene), patch_targets(scene)
    assert words.shape == (144,)
    for patch, word in enumerate(words):
        if shown.word[patch] > 0:
            assert scene.word is not None and word == tokenizer.encode(f" {scene.word}")[0]
        elif shown.kind[patch] > 0:
            concept = concepts()[shown.kind[patch] - 1]
            name = concept.plural if shown.is_centre[patch] else concept.name
            assert word == tokenizer.encode(f" {name}")[0]
        else:
            assert word == IGNORE


def test_the_second_loss_reaches_connector_and_vit_and_falls(grounded: Path) -> None:
    trainer = build_trainer(grounded, ["max_steps=40", "watch.every_steps=1"])
    trainer.fit()
    recipe_run = Path(trainer.config.run_dir)
    lines = [yaml.safe_load(line) for line in (recipe_run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_grounding"] for line in lines if "loss_grounding" in line]
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    assert all(0 <= line["share_grounded"] <= 1 for line in lines if "share_grounded" in line)


def test_loss_is_the_sum_of_both(grounded: Path) -> None:
    trainer = build_trainer(grounded, ["grounding_weight=2.0"])
    task = trainer.task
    assert isinstance(task, GroundedLanguageTask)
    examples = [task.prepare(task.stream[i], np.random.default_rng(i)) for i in range(3)]
    batch = task.collate(examples)
    assert batch[PICTURE_WORDS].shape[0] == 3
    task.module.train()
    torch.manual_seed(0)
    total, tally = task.loss(batch)
    answers, (grounding, n_words) = tally["loss_answers"][0], tally["loss_grounding"]
    assert n_words == (batch[PICTURE_WORDS] != IGNORE).sum()
    assert total.item() == pytest.approx(float(answers) + 2.0 * float(grounding) / n_words, rel=1e-6)
    task.module.eval()
    alone, _ = task.loss(batch)
    assert float(alone) == pytest.approx(float(answers), rel=1e-5), "an evaluation takes the loss of the answers alone"


def test_a_packed_row_keeps_the_order_of_pictures(grounded: Path) -> None:
    task = build_trainer(grounded, []).task
    examples = [task.prepare(task.stream[i], np.random.default_rng(i)) for i in range(3)]
    task.module.eval()
    apart, packed = task.collate(examples), task.collate([examples[:2], examples[2:]])
    assert torch.equal(apart[PICTURE_WORDS], packed[PICTURE_WORDS])


def test_sources_beside_scenes_learn_from_answers_alone(grounded: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "plain.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"image": "plain.png", "question": "Which colour?", "answer": "teal"}\n{"question": "a", "answer": "b"}\n'
    )
    values = yaml.safe_load(grounded.read_text())
    scenes = values["data"]["sources"][0]
    values["data"]["sources"] = [{**scenes, "rate": 0.5}, {"kind": "jsonl", "path": str(rows), "rate": 0.5}]
    grounded.write_text(yaml.safe_dump(values))
    task = build_trainer(grounded).task
    rng = np.random.default_rng(0)
    examples = [task.stream[i] for i in range(12)]
    prepared = [task.prepare(example, rng) for example in examples]
    for example, tensors in zip(examples, prepared, strict=True):
        has_scene = "scene" in example["metadata"]
        assert bool((tensors[PICTURE_WORDS] != IGNORE).any()) == has_scene
        assert len(tensors[PICTURE_WORDS]) == len(tensors.get("images", ()))
    assert 0 < sum("scene" in example["metadata"] for example in examples) < 12
    others = [t for e, t in zip(examples, prepared, strict=True) if "scene" not in e["metadata"]]
    task.module.train()
    total, tally = task.loss(task.collate(others))
    assert float(total) == float(tally["loss_answers"][0])
    mixed, parts = task.loss(task.collate(prepared))
    mixed.backward()
    assert parts["loss_grounding"][0] > 0 and float(mixed) > float(parts["loss_answers"][0])


def test_other_data_and_sharding_are_refused(grounded: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    values = yaml.safe_load(grounded.read_text())
    other = {**values, "data": {"sources": [{"kind": "jsonl", "path": str(tmp_path / "rows.jsonl")}]}}
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(other))
    with pytest.raises(OLMoConfigurationError, match="kind scenes"):
        build_trainer(path)
    with pytest.raises(OLMoConfigurationError, match=r"parallel\.strategy"):
        build_trainer(grounded, ["parallel.strategy=fsdp2"])
    with pytest.raises(OLMoConfigurationError, match="grounding_weight"):
        build_trainer(grounded, ["grounding_weight=0"])


def test_words_of_questions_about_pictures_learn_what_they_name(grounded: Path) -> None:
    model = grounded.parent / "model" / "config.yaml"
    values = yaml.safe_load(model.read_text())
    wide = ROOT / "configs" / "molmo-nano-wide" / "tokenizer.json"
    values["llm"] |= {"n_layers": 3, "vocab_size": 1824, "tokenizer": {"identifier": str(wide)}}
    model.write_text(yaml.safe_dump(values))
    task = build_trainer(grounded, ["mention_weight=0.5", "event_layer=1"]).task
    assert isinstance(task, GroundedLanguageTask)
    means = learned_by_heart(task)
    for mean in means:
        parts = mean["loss_answers"] + 0.5 * mean["loss_grounding"] + 0.5 * mean["loss_mentions"]
        assert mean["loss"] == pytest.approx(parts, rel=1e-5)
    first, last = means[0], means[-1]
    assert last["loss_mentions"] < 0.5 * first["loss_mentions"] and last["share_found"] > 0.8, (first, last)
    assert set(last) <= {*task.tally_names, "loss"}

"""Training on videos: from files, alone and among pictures, with frames counted as what they are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_clips import write_clip
from small_scenes import SCENES

from olmo.models.flops import forward_flops
from olmo.models.video_olmo.budget import crop_flops, video_budget
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.train.plan.dry_run import as_rows, dry_run
from olmo.train.run import build_trainer
from olmo.train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A clip and a question for each of two colours."""
    lines = []
    for name, colour in COLOURS.items():
        write_clip(tmp_path / f"{name}.gif", colour=colour)
        lines.append({"video": f"{name}.gif", "question": "Which colour moves?", "answer": name})
    file = tmp_path / "clips.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def video_recipe(recipe: Path, rows: Path, tmp_path: Path) -> Callable[..., Path]:
    """The tiny recipe with a model that takes four frames, and other top-level values."""

    def rewrite(model: dict[str, Any] | None = None, **changes: Any) -> Path:
        file = tmp_path / "model" / "config.yaml"
        video = {"model_name": "video_olmo", "max_frames": 4, **(model or {})}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | video))
        values = {"data": {"sources": [{"kind": "jsonl", "path": rows.name}]}, "batch_size": 2, "max_steps": 2}
        recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | values | changes))
        return recipe

    return rewrite


def first_step(trainer: Trainer) -> tuple[list[dict[str, Any]], dict[str, float]]:
    trainer.start()
    step = next(iter(trainer.batches()))
    metrics = trainer.train_step(step)
    trainer.close()
    return step.micro_batches, metrics


def test_a_model_learns_from_clips_in_a_file(video_recipe: Callable[..., Path], tmp_path: Path) -> None:
    trainer = build_trainer(video_recipe(max_steps=12, checkpoint={"every_steps": 12}))
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0], losses
    assert isinstance(VideoOlmo.from_pretrained(tmp_path / "run" / "final"), VideoOlmo)


def test_clips_and_pictures_share_a_recipe_and_a_batch(video_recipe: Callable[..., Path]) -> None:
    sources = [{"kind": "jsonl", "path": "clips.jsonl", "rate": 1}, {"kind": "scenes", "scenes": SCENES, "rate": 1}]
    for pack in (False, True):
        recipe = video_recipe(data={"sources": sources}, batch_size=8, pack=pack, sequence_length=512)
        trainer = build_trainer(recipe)
        (batch,), metrics = first_step(trainer)
        seconds = batch["frame_facts"][..., 0][(batch["image_input_idx"] >= 0).any(dim=-1)]
        assert (seconds >= 0).any() and (seconds < 0).any(), "frames and crops of pictures are in one batch"
        assert np.isfinite(metrics["loss"]) and {"loss_clips", "loss_scenes"} <= set(metrics)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"pooling_h": 2, "pooling_w": 2},
        {"high_res_every": 2, "high_res_pooling": 1},
        {"frame_resolution": 56},
        {"temporal_aggregation": "mean", "temporal_stride": 2},
    ],
    ids=str,
)
def test_a_step_costs_what_the_budget_of_its_videos_says(model: dict, video_recipe: Callable[..., Path]) -> None:
    trainer = build_trainer(video_recipe(model, micro_batch_size=1, batch_size=1))
    (batch,), metrics = first_step(trainer)
    config = trainer.task.model.config
    length = int(batch["attention_mask"].sum())
    budget = video_budget(config, 8, n_text_tokens=30).flops
    own = forward_flops(config, n_tokens=length, n_pairs=length**2, n_logits=int((batch["labels"] != -100).sum()))
    assert metrics["flops"] == pytest.approx(3 * (budget.vit + budget.connector + own.llm), rel=1e-6)


def test_a_picture_costs_a_video_model_what_it_costs_a_molmo(video_recipe: Callable[..., Path]) -> None:
    recipe = video_recipe(data={"sources": [{"kind": "scenes", "scenes": SCENES}]}, batch_size=2)
    trainer = build_trainer(recipe)
    (batch,), metrics = first_step(trainer)
    lengths = batch["attention_mask"].sum(dim=1)
    n_crops = int((batch["image_input_idx"] >= 0).any(dim=-1).sum())
    forward = forward_flops(
        trainer.task.model.config, n_tokens=int(lengths.sum()), n_pairs=int(lengths.square().sum()), n_crops=n_crops,
        n_logits=int((batch["labels"] != -100).sum()),
    )  # fmt: skip
    assert metrics["flops"] == pytest.approx(3 * forward.total, rel=1e-6)


def test_a_dry_run_counts_frames(video_recipe: Callable[..., Path]) -> None:
    recipe = video_recipe()
    reckoned = dry_run(recipe)
    trainer = build_trainer(recipe)
    _, metrics = first_step(trainer)
    assert reckoned.sizes.n_crops == 4 and reckoned.tokens == metrics["n_tokens"]
    assert reckoned.flops == pytest.approx(metrics["flops"], rel=1e-6)
    assert ("crops and frames a step", "8") in as_rows(reckoned)


def test_without_data_videos_are_taken_to_have_all_frames(video_recipe: Callable[..., Path]) -> None:
    missing = {"sources": [{"kind": "jsonl", "path": "missing.jsonl"}]}
    few = dry_run(video_recipe({"max_frames": 4}, data=missing))
    many = dry_run(video_recipe({"max_frames": 8}, data=missing))
    assert (few.sizes.n_crops, many.sizes.n_crops) == (4, 8) and few.flops < many.flops
    chunked = dry_run(video_recipe({"max_frames": 8, "frame_batch_size": 2}, data=missing))
    assert chunked.memory.activations < many.memory.activations, "a few frames at a time are open"


def test_frames_of_a_kind_cost_alike(video_recipe: Callable[..., Path]) -> None:
    config = build_trainer(video_recipe()).task.model.config
    one = crop_flops(config, Counter({(True, 6, 3, 3): 1}))
    three = crop_flops(config, Counter({(True, 6, 3, 3): 3}))
    finer = crop_flops(config, Counter({(True, 6, 2, 2): 1}))
    smaller = crop_flops(config, Counter({(True, 4, 3, 3): 1}))
    assert three.vit == 3 * one.vit and three.connector == pytest.approx(3 * one.connector)
    assert finer.vit == one.vit and finer.connector > one.connector and smaller.vit < one.vit


def test_a_broken_clip_is_named_or_left_out(video_recipe: Callable[..., Path], rows: Path) -> None:
    rows.write_text(rows.read_text() + json.dumps({"video": "no.mp4", "question": "?", "answer": "!"}) + "\n")
    changes = {"batch_size": 3, "data": {"sources": [{"kind": "jsonl", "path": rows.name}], "is_shuffled": False}}
    trainer = build_trainer(video_recipe(**changes))
    with pytest.raises(Exception, match=r"clips\.jsonl:3.*no\.mp4' does not exist"):
        first_step(trainer)
    trainer.close()
    _, metrics = first_step(build_trainer(video_recipe(on_bad_example="skip", **changes)))
    assert np.isfinite(metrics["loss"])


def test_evaluation_inside_a_run_shows_videos(video_recipe: Callable[..., Path], tmp_path: Path) -> None:
    evaluation = {
        "every_steps": 2,
        "n_examples": 2,
        "sources": [{"kind": "jsonl", "path": "clips.jsonl", "name": "held_out"}],
        "tasks": ["clips.jsonl:words"],
    }
    build_trainer(video_recipe(evaluation=evaluation)).fit()
    written = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "held_out/loss" in written and "words/f1" in written


@pytest.mark.slow
def test_the_debug_recipe_learns(tmp_path: Path) -> None:
    """Ten seconds on one core: the loss on clips falls to less than half."""
    trainer = build_trainer(ROOT / "configs" / "debug" / "video.yaml", [f"run_dir={tmp_path / 'run'}", "n_threads=1"])
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss_clips"] for line in lines if "loss_clips" in line]
    assert losses[-1] < 0.5 * losses[0], losses

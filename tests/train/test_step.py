"""The step: one global divisor, whatever the micro-batches; steps that must not be taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from small_scenes import SCENES

from olmo.exceptions import OLMoTrainingError
from olmo.train.run import build_trainer
from olmo.train.step import run_micro_batches, what_is_wrong
from olmo.train.trainer import Trainer


def gradients_and_weights(
    recipe: Path, tmp_path: Path, *overrides: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], float, int]:
    trainer = build_trainer(recipe, [f"run_dir={tmp_path / '-'.join(overrides)}", "max_steps=1", *overrides])
    trainer.start()
    (batch,) = list(trainer.batches())
    sums = run_micro_batches(trainer.task, batch.micro_batches, trainer.parallel)
    named = {n: p for part in trainer.learning.values() for n, p in part.items()}
    gradients = {n: p.grad.clone() for n, p in named.items() if p.grad is not None}
    trainer.train_step(batch)
    trainer.close()
    return gradients, {n: p.detach().clone() for n, p in named.items()}, sums.loss, len(batch.micro_batches)


def test_64_micro_batches_of_1_equal_one_batch_of_64(recipe: Path, tmp_path: Path) -> None:
    """Promise 34. Measured: gradients 6e-8, weights after a step of AdamW 2e-9, loss 2e-7 of itself."""
    small = ["optimizer.llm.lr=1e-5", "optimizer.vit.lr=1e-5", "optimizer.connector.lr=1e-5", "z_loss=1e-4"]
    whole = gradients_and_weights(recipe, tmp_path, "batch_size=64", *small)
    parts = gradients_and_weights(recipe, tmp_path, "batch_size=64", "micro_batch_size=1", *small)
    assert (whole[3], parts[3]) == (1, 64)
    assert parts[2] == pytest.approx(whole[2], rel=1e-6)
    for ours, theirs in ((parts[0], whole[0]), (parts[1], whole[1])):
        assert ours.keys() == theirs.keys()
        worst = {name: float((ours[name] - theirs[name]).abs().max()) for name in ours}
        assert max(worst.values()) < 1e-6, worst


def test_the_divisor_is_the_sum_of_loss_weights(recipe: Path) -> None:
    trainer = build_trainer(recipe, ["micro_batch_size=1", "max_steps=1"])
    trainer.start()
    (batch,) = list(trainer.batches())
    # One picture counts ten times as much; a divisor by micro-batches would not notice.
    batch.micro_batches[0]["loss_masks"] *= 10
    sums = run_micro_batches(trainer.task, batch.micro_batches, trainer.parallel)
    weights = [trainer.task.weight(b) for b in batch.micro_batches]
    means = [float(trainer.task.loss(b)[0].detach()) for b in batch.micro_batches]
    assert sums.weight == pytest.approx(sum(weights))
    expected = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
    assert sums.loss == pytest.approx(expected, rel=1e-6)
    trainer.close()


def test_losses_by_source_make_up_the_whole(change: Callable[..., Path], recipe: Path, tmp_path: Path) -> None:
    sources = [{"kind": "scenes", "name": name, "scenes": SCENES, "rate": rate} for name, rate in (("a", 1), ("b", 3))]
    build_trainer(change(data={"sources": sources}), ["max_steps=2", "batch_size=8"]).fit()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    low, high = sorted((line["loss_a"], line["loss_b"]))
    assert low <= line["loss"] <= high
    assert {"lr_llm", "grad_norm_vit", "tokens_per_s", "wait_share"} <= line.keys()


class Poison:
    """Makes the loss of some steps not a number, as a broken picture might."""

    def __init__(self, trainer: Trainer, steps: set[int]) -> None:
        self.trainer, self.steps, self.loss = trainer, steps, trainer.task.loss
        trainer.task.loss = self

    def __call__(self, batch: dict[str, torch.Tensor]) -> object:
        loss, tally = self.loss(batch)
        return (loss * float("nan") if self.trainer.step in self.steps else loss), tally


def test_nan_stops_the_run_with_the_batch_saved(recipe: Path, tmp_path: Path) -> None:
    trainer = build_trainer(recipe)
    Poison(trainer, {2})
    before_bad = {}

    def remember(step: int = 0) -> None:
        before_bad.update({n: p.clone() for n, p in trainer.task.module.named_parameters()})

    bad_step = trainer._bad_step
    trainer._bad_step = lambda *given: (remember(), bad_step(*given))
    with pytest.raises(OLMoTrainingError, match=r"step 2: its loss is nan.*bad_batch_2\.safetensors.*on_nan=skip"):
        trainer.fit()
    assert all(torch.isfinite(p).all() for p in before_bad.values())
    with safe_open(tmp_path / "run" / "bad_batch_2.safetensors", "pt") as file:
        assert file.metadata()["step"] == "2" and "nan" in file.metadata()["why"]
        assert file.get_tensor("0/input_ids").shape[0] == 4
    # The lock is free again, and the run goes on from before.
    build_trainer(recipe).fit()


def test_skip_leaves_the_weights_alone_and_says_so(recipe: Path, tmp_path: Path) -> None:
    trainer = build_trainer(recipe, ["on_nan=skip"])
    Poison(trainer, {2, 3})
    trainer.start()
    for batch in trainer.batches():
        before = {n: p.clone() for n, p in trainer.task.module.named_parameters()}
        trainer.train_step(batch)
        same = all(torch.equal(before[n], p) for n, p in trainer.task.module.named_parameters())
        assert same == (trainer.step - 1 in (2, 3))
    trainer.close()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("was skipped" in json.loads(line).get("warning", "") for line in lines) == 2


def test_skip_gives_up_after_too_many_in_a_row(recipe: Path) -> None:
    trainer = build_trainer(recipe, ["on_nan=skip", "max_bad_steps=2"])
    Poison(trainer, {1, 3, 4})
    with pytest.raises(OLMoTrainingError, match=r"step 4 \(2 bad steps in a row\)"):
        trainer.fit()


def test_a_gradient_that_overflows_counts_as_bad(recipe: Path) -> None:
    trainer = build_trainer(recipe)
    trainer.start()
    (batch, *_) = list(trainer.batches())
    sums = run_micro_batches(trainer.task, batch.micro_batches, trainer.parallel)
    assert what_is_wrong(sums, {"vit": 1.0, "llm": 2.0}) is None
    assert "llm inf" in str(what_is_wrong(sums, {"vit": 1.0, "llm": float("inf")}))
    trainer.close()


def test_a_step_without_a_target_is_not_taken(recipe: Path) -> None:
    trainer = build_trainer(recipe, ["on_nan=skip"])
    trainer.start()
    (batch, *_) = list(trainer.batches())
    for micro in batch.micro_batches:
        micro["loss_masks"] = torch.zeros_like(micro["loss_masks"])
    metrics = trainer.train_step(batch)
    assert "loss" not in metrics and trainer.n_bad_in_row == 1
    trainer.close()


def test_bfloat16_arithmetic_keeps_float32_weights_and_moments(recipe: Path) -> None:
    plain = build_trainer(recipe, ["max_steps=1"])
    half = build_trainer(recipe, ["max_steps=1", "precision=amp_bf16"])
    results = []
    for trainer in (plain, half):
        trainer.start()
        (batch,) = list(trainer.batches())
        results.append(trainer.train_step(batch)["loss"])
        trainer.close()
    assert results[0] != results[1] and results[1] == pytest.approx(results[0], rel=0.02)
    assert {p.dtype for p in half.task.module.parameters()} == {torch.float32}
    assert {v.dtype for state in half.optimizer.state.values() for v in state.values()} == {torch.float32}


def test_bad_examples_are_left_out_and_counted(recipe: Path, tmp_path: Path, change: Callable[..., Path]) -> None:
    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "What is this?", "answer": "nothing"}
    rows = [good, {**good, "image": "gone.png"}, good, good]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change(data={"sources": [{"kind": "jsonl", "path": str(tmp_path / "rows.jsonl")}]}, on_bad_example="skip")
    build_trainer(recipe, ["max_steps=1"]).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("1 examples of step 0" in line.get("warning", "") and "gone.png" in line["warning"] for line in lines)


@pytest.mark.parametrize("overrides", [[], ["micro_batch_size=1"]], ids=["one batch", "row by row"])
def test_packing_changes_rows_and_not_the_step(recipe: Path, tmp_path: Path, overrides: list[str]) -> None:
    apart = gradients_and_weights(recipe, tmp_path, "batch_size=8", *overrides)
    packed = gradients_and_weights(recipe, tmp_path, "batch_size=8", "pack=true", "sequence_length=256", *overrides)
    assert packed[2] == pytest.approx(apart[2], rel=1e-5)
    if overrides:
        assert packed[3] < apart[3] == 8
    for name, gradient in apart[0].items():
        torch.testing.assert_close(packed[0][name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

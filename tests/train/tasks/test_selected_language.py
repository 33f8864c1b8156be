"""Selected language training: the course of the ratio, what learns when, and what the loss is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from olmo.exceptions import OLMoConfigurationError
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.loss import target_positions
from olmo.train.optim.selection import SelectionConfig, ratio_at
from olmo.train.plan.dry_run import as_rows, dry_run
from olmo.train.run import build_trainer
from olmo.train.task import Batch
from olmo.train.tasks.questions import IS_REPEAT
from olmo.train.tasks.selected_language import SelectedLanguageTask
from olmo.train.trainer import Trainer

WIDE = "model_overrides=[llm.d_model=128,llm.n_heads=4,llm.mlp_hidden_size=320]"
Selected = Callable[..., Path]
SCORER = {"hidden_size": 16, "query_size": 8, "dropout": 0.0, "distillation_weight": 0.5}
FROZEN = [f"optimizer.{part}.is_frozen=true" for part in ("connector", "vit", "llm")]
NO_LOSSES = [
    "selection.output_weight=0", "selection.exploration=0",
    "model_overrides=[token_scorer.budget_weight=0,token_scorer.distillation_weight=0]",
]  # fmt: skip


@pytest.fixture
def selected(recipe: Path, tmp_path: Path) -> Selected:
    """The tiny recipe with a HeMolmo and its task; changes are of the model, or top-level values."""

    def rewrite(model: dict[str, Any] | None = None, **changes: Any) -> Path:
        file = tmp_path / "model" / "config.yaml"
        he = {"model_name": "he_molmo", "pooling_h": 2, "pooling_w": 2, "token_scorer": SCORER, **(model or {})}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | he))
        values = yaml.safe_load(recipe.read_text())
        values["optimizer"]["selector"] = {"lr": 3e-3, "warmup_steps": 2}
        recipe.write_text(yaml.safe_dump(values | {"task": "selected_language", "selection": {}} | changes))
        return recipe

    return rewrite


def task_of(trainer: Trainer) -> SelectedLanguageTask:
    assert isinstance(trainer.task, SelectedLanguageTask)
    return trainer.task


def batch_of(task: SelectedLanguageTask, n: int = 3) -> Batch:
    return task.collate([task.prepare(task.stream[i], np.random.default_rng(i)) for i in range(n)])


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.task.module.state_dict().items()}


def train_to(trainer: Trainer, step: int) -> None:
    """As `fit` does, and saved there."""
    trainer.start()
    for batch in trainer.batches():
        metrics = trainer.train_step(batch)
        for watcher in trainer.watchers:
            watcher.on_step(trainer.step, metrics)
        if trainer.step == step:
            break
    trainer.save()
    trainer.close("stopped")


def test_the_model_is_called_with_the_ratio_of_the_step(selected: Selected, monkeypatch, tmp_path: Path) -> None:
    trainer = build_trainer(selected(), ["max_steps=8", "micro_batch_size=2", "selection.random_share=0.5"])
    seen: list[tuple[float, float]] = []
    forward = HeMolmo.forward

    def recording(self: HeMolmo, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append((kwargs["selection_ratio"], kwargs["exploration"]))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(HeMolmo, "forward", recording)
    trainer.fit()
    course = [ratio_at(SelectionConfig(random_share=0.5), 0.25, step, 8, trainer.config.seed) for step in range(8)]
    assert [ratio for ratio, _ in seen] == [ratio for ratio in course for _ in range(2)], "one ratio a step"
    assert [noise for _, noise in seen[::2]] == [1 - step / 8 for step in range(8)]
    assert len(set(course[4:])) > 1, "some are drawn"
    told = [line["selection_ratio"] for line in lines_of(tmp_path / "run")]
    assert told == pytest.approx(course, rel=1e-5)


def rows_of(task: SelectedLanguageTask, example: Any, seed: int = 0) -> list[tuple[int, ...]]:
    return [tuple(row["labels"].tolist()) for row in task.prepare(example, np.random.default_rng(seed))["rows"]]


def test_a_row_asks_one_question(selected: Selected) -> None:
    task = task_of(build_trainer(selected(), []))
    example = task.stream[0]
    assert len(example["message_list"]) > 1
    (row,) = task.prepare(example, np.random.default_rng(0))["rows"]
    assert "subsegment_ids" not in row, "that says which conversation a token is of"
    said = {rows_of(task, example, i)[0] for i in range(40)}
    assert len(said) > 1, "another one another time"
    single = {**example, "message_list": example["message_list"][:1], "styles": example["styles"][:1]}
    alone = {rows_of(task, single, i)[0] for i in range(40)}
    assert alone < said
    assert len(example["message_list"]) > 1, "the example itself stays as it is"


def test_several_questions_are_rows_of_their_own(selected: Selected) -> None:
    task = task_of(build_trainer(selected(), ["selection.questions=5"]))
    example = task.stream[0]
    conversations = list(zip(example["message_list"], example["styles"], strict=True))
    n = len(conversations)
    assert 1 < n < 5, "all of them are asked, each once"
    each = {rows_of(task, {**example, "message_list": [m], "styles": [s]})[0] for m, s in conversations}
    assert len(rows_of(task, example)) == n and set(rows_of(task, example)) == each
    batch = batch_of(task, 1)
    assert len(batch["input_ids"]) == n and batch["is_repeat"].tolist() == [False] + [True] * (n - 1)
    evaluated = task.evaluation_prepare(example, np.random.default_rng(0))["rows"]
    assert len(evaluated) == 1, "evaluations ask one"


def test_questions_about_one_picture_encode_it_once(selected: Selected, monkeypatch) -> None:
    """And nothing else changes, neither loss nor gradient."""
    task = task_of(build_trainer(selected(), ["selection.questions=5", *NO_LOSSES]))
    model, batch = task.model.train(), batch_of(task, 2)
    n_crops = int(task.encoded_crops(batch).sum())
    encoded: list[int] = []
    encode_images = HeMolmo.encode_images

    def recording(self: HeMolmo, pictures: Any) -> Tensor:
        encoded.append(len(pictures.images))
        return encode_images(self, pictures)

    monkeypatch.setattr(HeMolmo, "encode_images", recording)
    gradients = []
    for encodes_once in (True, False):
        model.encodes_once = encodes_once
        model.zero_grad()
        loss, _ = task.loss(batch)
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert encoded[0] == n_crops < encoded[1] == n_crops * len(batch["input_ids"]) // 2
    for once, each in zip(*gradients, strict=True):
        torch.testing.assert_close(once, each, rtol=1e-4, atol=1e-6)


def test_another_model_can_say_what_is_imitated(recipe: Path, selected: Selected, tmp_path: Path) -> None:
    build_trainer(recipe, [f"run_dir={tmp_path / 'molmo'}", "max_steps=2"]).fit()
    teacher = Molmo.from_pretrained(tmp_path / "molmo" / "final").eval()
    settings = [f"selection.output_teacher={tmp_path / 'molmo' / 'final'}", "selection.output_weight=2.0"]
    task = task_of(build_trainer(selected(), [*settings, "selection.exploration=0"]))
    model, batch = task.model.train(), batch_of(task)
    for ratio in (1.0, 0.25):
        task.ratio = ratio
        loss, tally = task.loss(batch)
        arguments = {k: batch[k] for k in ("input_ids", "images", "image_masks", "image_input_idx", "labels")}
        with torch.no_grad():
            taught = teacher(**arguments, attention_mask=batch["attention_mask"], logits_at="labels").logits
        said = task.run(batch, selection_ratio=ratio).logits
        rows, columns, _ = target_positions(batch["labels"])
        weights = batch["loss_masks"][rows, columns + 1]
        each = (taught.softmax(-1) * (taught.log_softmax(-1) - said.log_softmax(-1))).sum(dim=-1)
        above, below = tally["loss_output"]
        assert float(above / below) == pytest.approx(2.0 * ((each * weights).sum() / weights.sum()).item(), rel=1e-4)
    loss.backward()
    assert all(p.grad is None for p in task.teacher.parameters()), "the teacher stays as it is"
    assert not any(name.startswith("teacher") for name in model.state_dict())


def test_a_teacher_is_a_whole_model(selected: Selected, tmp_path: Path) -> None:
    model = task_of(build_trainer(selected())).model
    Molmo(MolmoConfig(llm=model.config.llm, vision_backbone=None)).save_checkpoint(tmp_path / "words", sharded=False)
    with pytest.raises(OLMoConfigurationError, match=r"words has no vision_backbone\..* a whole model"):
        build_trainer(selected(), [f"selection.output_teacher={tmp_path / 'words'}"])


def test_p64_the_first_stage_changes_the_scorer_alone(selected: Selected) -> None:
    trainer = build_trainer(selected(), [*FROZEN, "max_steps=4"])
    before = weights_of(trainer)
    trainer.fit()
    changed = {name for name, tensor in weights_of(trainer).items() if not torch.equal(tensor, before[name])}
    of_scorer = {name for name in before if name.startswith("token_selector.")}
    assert changed and changed <= of_scorer
    assert {f"token_selector.scorer.{name}.weight" for name in ("prior_out", "query", "key", "place")} <= changed


def test_in_the_second_stage_every_part_learns(selected: Selected) -> None:
    trainer = build_trainer(selected(), ["max_steps=4"])
    before = weights_of(trainer)
    trainer.fit()
    after = weights_of(trainer)
    for part, named in trainer.task.components().items():
        assert any(not torch.equal(after[name], before[name]) for name in named), part


def test_p64_the_second_stage_starts_from_a_molmo(recipe: Path, selected: Selected, tmp_path: Path) -> None:
    build_trainer(recipe, [f"run_dir={tmp_path / 'molmo'}", "max_steps=1"]).fit()
    trainer = build_trainer(selected(init_from=str(tmp_path / "molmo" / "final")), ["max_steps=1"])
    trainer.fit()
    model = HeMolmo.from_pretrained(tmp_path / "run" / "final")
    assert model.config.selection_ratio == 0.25
    assert set(trainer.learning) == {"connector", "vit", "llm", "selector"}


def test_resuming_equals_running_straight_bit_for_bit(selected: Selected, tmp_path: Path) -> None:
    # Draws of the ratio, noise and the scorer's dropout all fall on both sides of the stop.
    settings = ["max_steps=8", "selection.random_share=0.5", "model_overrides=[token_scorer.dropout=0.1]"]
    straight = build_trainer(selected(), [*settings, f"run_dir={tmp_path / 'straight'}"])
    train_to(straight, 8)
    train_to(build_trainer(selected(), settings), 5)
    torch.manual_seed(12345)
    resumed = build_trainer(selected(), settings)
    train_to(resumed, 8)
    ours = weights_of(resumed)
    for name, tensor in weights_of(straight).items():
        assert torch.equal(tensor, ours[name]), name
    keep = ("loss", "grad_norm_", "selection_")
    for a, b in zip(lines_of(tmp_path / "straight"), lines_of(tmp_path / "run"), strict=True):
        assert {k: v for k, v in a.items() if k.startswith(keep)} == {k: v for k, v in b.items() if k.startswith(keep)}


def test_the_losses_add_up_over_micro_batches(selected: Selected, tmp_path: Path) -> None:
    build_trainer(selected(), ["max_steps=6", "micro_batch_size=1", "z_loss=1e-3"]).fit()
    parts = ("loss_answers", "loss_budget", "loss_distillation", "loss_output")
    for line in lines_of(tmp_path / "run")[1:]:
        assert line["loss"] == pytest.approx(sum(line[name] for name in parts), rel=1e-5)
        assert min(line[name] for name in parts) > 0 and 0 < line["selection_gate"] < 1
    first = lines_of(tmp_path / "run")[0]
    assert first["selection_ratio"] == 1.0 and "loss_output" not in first, "there is nothing to compare with"


def test_the_answers_loss_of_each_source_is_told_too(selected: Selected, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "b"}\n')
    sources = yaml.safe_load(selected().read_text())["data"]["sources"]
    sources = [{**sources[0], "rate": 0.5}, {"kind": "jsonl", "path": str(rows), "rate": 0.5}]
    task = task_of(build_trainer(selected(data={"sources": sources}), ["batch_size=8"]))
    task.module.train()
    task.begin_step(5, 6)
    loss, tally = task.loss(batch_of(task, 8))
    loss.backward()
    by_source = [tally[f"loss_{name}"] for name in ("scenes", "rows")]
    assert all(below > 0 for _, below in by_source)
    above, below = tally["loss_answers"]
    assert float(sum(a for a, _ in by_source)) == pytest.approx(float(above), rel=1e-5)
    assert float(sum(b for _, b in by_source)) == pytest.approx(float(below), rel=1e-5)


def test_what_is_said_with_some_tokens_is_drawn_to_what_is_said_with_all(selected: Selected) -> None:
    task = task_of(build_trainer(selected(), ["selection.exploration=0", "selection.output_weight=2.0"]))
    task.begin_step(5, 6)
    model, batch = task.model.train(), batch_of(task)
    loss, tally = task.loss(batch)
    assert model.training, "the teacher's pass leaves it as it was"
    whole, some = (task.run(batch, selection_ratio=ratio).logits for ratio in (1.0, task.ratio))
    rows, columns, _ = target_positions(batch["labels"], batch.get("subsegment_ids"))
    weights = batch["loss_masks"][rows, columns + 1]
    p = torch.softmax(whole, dim=-1)
    each = (p * (p.log() - torch.log_softmax(some, dim=-1))).sum(dim=-1)
    above, below = tally["loss_output"]
    wanted = 2.0 * ((each * weights).sum() / weights.sum()).item()
    assert float(above / below) == pytest.approx(wanted, rel=1e-4)
    parts = ("loss_answers", "loss_budget", "loss_distillation", "loss_output")
    assert loss.item() == pytest.approx(sum(float(tally[n][0] / tally[n][1]) for n in parts), rel=1e-5)


def test_p65_without_weights_it_is_the_loss_of_the_answers(selected: Selected) -> None:
    task = task_of(build_trainer(selected(), NO_LOSSES))
    task.module.train()
    batch = batch_of(task)
    for step in (0, 5):
        task.begin_step(step, 6)
        loss, tally = task.loss(batch)
        assert loss.item() == task.run(batch, selection_ratio=task.ratio).loss.item()
        assert set(tally) == {"loss_answers", "selection_gate", "selection_ratio"}
        assert float(tally["loss_answers"][0] / tally["loss_answers"][1]) == pytest.approx(loss.item(), rel=1e-6)
    plain = build_trainer(selected(task="language", selection=None), NO_LOSSES[2:]).task
    plain.module.train()
    task.ratio = 0.25
    assert task.loss(batch)[0].item() == plain.loss({k: v for k, v in batch.items() if k != IS_REPEAT})[0].item(), (
        "a HeMolmo in the plain task"
    )


def test_an_evaluation_takes_the_answers_at_the_model_s_own_ratio(selected: Selected) -> None:
    task = task_of(build_trainer(selected(), ["selection.target=0.125"]))
    task.module.eval()
    batch = batch_of(task)
    with torch.no_grad():
        loss, tally = task.loss(batch)
        assert float(loss) == float(task.run(batch, selection_ratio=0.25).loss) and not tally


@pytest.mark.parametrize("teacher", ["none", "attention", "gradient"])
@pytest.mark.parametrize("output_weight", [0.0, 0.5])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_step_costs_what_is_counted(
    selected: Selected, teacher: str, output_weight: float, frozen: bool, monkeypatch
) -> None:
    """Kept tokens alone in the language model. Counted and closed differ by the scorer, column tokens, and the gradient
    that the first layer does not hand on; worst seen: 6.2 %."""
    monkeypatch.setattr("olmo.nn.linear._onednn_linear", None)  # the counter does not know it
    teaches = {"distillation_weight": 0.0} if teacher == "none" else {"teacher": teacher}
    settings = [*(FROZEN if frozen else []), f"selection.output_weight={output_weight}", WIDE]
    trainer = build_trainer(selected({"token_scorer": {**SCORER, **teaches}, "selection_ratio": 0.125}), settings)
    trainer.start()
    task = task_of(trainer)
    task.begin_step(5, 6)
    task.ratio, batch = 0.125, batch_of(task)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.loss(batch)[0].backward()
    trainer.close()
    assert task.flops(batch) == pytest.approx(counter.get_total_flops(), rel=0.1)
    task.ratio = 1.0
    whole = task.flops(batch)
    task.ratio = 0.125
    assert output_weight or task.flops(batch) < 0.8 * whole


def test_a_dry_run_reckons_with_the_first_step(selected: Selected) -> None:
    reckoned = dry_run(selected(), FROZEN)
    n_learning = {part: n for part, n in reckoned.learning.items() if n}
    assert set(n_learning) == {"selector"} and any("selector" in label for label, _ in as_rows(reckoned))


def test_a_dry_run_counts_pictures_once_and_the_teacher(recipe: Path, selected: Selected, tmp_path: Path) -> None:
    build_trainer(recipe, [f"run_dir={tmp_path / 'molmo'}", "max_steps=1"]).fit()
    alone, several = (dry_run(selected(), [f"selection.questions={n}"]) for n in (1, 3))
    assert several.sizes.n_crops == alone.sizes.n_crops and several.sizes.n_tokens > 1.5 * alone.sizes.n_tokens
    taught = dry_run(selected(), [f"selection.output_teacher={tmp_path / 'molmo' / 'final'}"])
    assert taught.memory.weights == 2 * alone.memory.weights


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["model_overrides=[token_scorer.scorer=norm]"], r"token_scorer\.scorer: norm has nothing to learn"),
        (["optimizer.selector.is_frozen=true"], r"optimizer\.selector\.is_frozen: the scorer would learn nothing"),
        (["lora.rank=2"], r"lora\.whole_parts: the scorer would learn nothing; add selector"),
        (["pack=true"], "pack: a HeMolmo reads one question"),
        (["task=language"], "selection: belongs to task: selected_language"),
    ],
)
def test_what_would_teach_no_selection_is_refused(selected: Selected, settings: list[str], match: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=match):
        build_trainer(selected(), settings)


def test_another_model_is_refused(change: Callable[..., Path]) -> None:
    with pytest.raises(OLMoConfigurationError, match="trains a HeMolmo, and this model is a Molmo"):
        build_trainer(change(task="selected_language"))


def test_adapters_with_a_whole_selector(selected: Selected) -> None:
    trainer = build_trainer(selected(), ["lora.rank=2", "lora.whole_parts=[selector]", "max_steps=2"])
    before = weights_of(trainer)
    trainer.fit()
    changed = {name for name, tensor in weights_of(trainer).items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("token_selector.") for name in changed)
    assert all("lora" in name or name.startswith("token_selector.") for name in changed)

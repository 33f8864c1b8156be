"""Selected language training: a HeMolmo learns to answer from some of the picture tokens, and which those should be.

The share of tokens that stays falls over the run and is drawn at random later on, the choice gets noise that goes away.
Besides the losses that the model adds itself, what it says with some tokens is drawn to what it says with all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.flops import PARTS, Flops, llm_flops
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.he_molmo.he_molmo_config import Granularity, HeMolmoConfig, ScorerType, Teacher
from olmo.models.he_molmo.token_selector import kept_counts
from olmo.models.outputs import OLMoOutput
from olmo.nn.loss import target_positions
from olmo.train.first_weights import fill
from olmo.train.optim.adamw import component_configs
from olmo.train.optim.selection import SelectionConfig, exploration_at, ratio_at
from olmo.train.task import Batch, Tally
from olmo.train.tasks.language import SOURCE_IDS, LanguageTask
from olmo.train.tasks.questions import IS_REPEAT, CollateQuestions, PrepareQuestions
from olmo.train.train_config import TrainConfig

LOSSES = ("loss_budget", "loss_distillation")
"""Losses of the selection that the model adds to that of the answers."""

TALLIES = ("loss_answers", *LOSSES, "loss_output", "selection_gate", "selection_ratio")


class SelectedLanguageTask(LanguageTask):
    """The language task for a HeMolmo, with the course of its selection.

    A row asks one question; of an example with several conversations some are drawn, each time anew. Evaluations take
    the loss of the answers alone, at the model's own ratio.

    Args:
        config: the recipe; `selection` is the course.
        model: the model; its scorer is one that learns.
        base_dir: folder that relative paths of the data start from.

    Attributes:
        ratio: share of the picture tokens that stays in this step; before the first it is that of the first.
        exploration: scale of the noise in this step.
    """

    def __init__(self, config: TrainConfig, model: ModelBase, base_dir: str | Path | None = None) -> None:
        super().__init__(config, model, base_dir)
        self.he_config = _checked(config, model)
        self.selection = config.selection or SelectionConfig()
        self.ratio, self.exploration = self.selection.start, self.selection.exploration
        self.tally_names = (*self.tally_names, *TALLIES)
        self.prepare = PrepareQuestions(self.prepare, self.selection.questions)
        self.evaluation_prepare = PrepareQuestions(self.evaluation_prepare, 1)
        self.collate = CollateQuestions(self.collate)
        model.encodes_once = self.selection.questions > 1
        self.teacher = None if self.selection.output_teacher is None else self._teacher(self.selection.output_teacher)

    def begin_step(self, step: int, max_steps: int) -> None:
        """Take the ratio and the noise of a step."""
        target = self.selection.target or self.he_config.selection_ratio
        self.ratio = ratio_at(self.selection, target, step, max_steps, self.config.seed)
        self.exploration = exploration_at(self.selection, step, max_steps)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Mean loss of the answers, plus what teaches the selection."""
        if not self.module.training:
            return super().loss(batch)
        taught = self._taught(batch) if self._is_taught else None
        out = self.run(batch, z_loss=self.config.z_loss, selection_ratio=self.ratio, exploration=self.exploration)
        assert out.loss is not None, "labels were given"
        loss, aux = out.loss, out.aux or {}
        parts = {name: aux[name] for name in (*LOSSES, "selection_gate") if name in aux}
        parts["loss_answers"] = loss - sum(value for name, value in aux.items() if name.startswith("loss_"))
        parts["selection_ratio"] = loss.new_tensor(self.ratio)
        if taught is not None:
            parts["loss_output"] = self.selection.output_weight * self._divergence(taught, out.logits, batch)
            loss = loss + parts["loss_output"]
        weight = self.weight(batch)
        tally: Tally = {name: (value.detach().float() * weight, weight) for name, value in parts.items()}
        return loss, {**self.by_source(out.logits, batch), **self.of_routers(out, batch), **tally}

    def run(self, batch: Batch, **settings: Any) -> OLMoOutput:
        """As for the language task."""
        return super().run(_without_repeats(batch), **settings)

    @property
    def _is_taught(self) -> bool:
        return self.selection.output_weight > 0.0 and (self.teacher is not None or self.ratio < 1.0)

    def _taught(self, batch: Batch) -> torch.Tensor:
        """`[n, V]`: what the teacher says with every token, without gradient and without dropout."""
        with torch.no_grad():
            if self.teacher is None:
                with _evaluating(self.module):
                    return self.run(batch, selection_ratio=1.0).logits
            self.teacher.to(batch["input_ids"].device)
            arguments = {k: v for k, v in _without_repeats(batch).items() if k != SOURCE_IDS}
            return self.teacher(**arguments, logits_at="labels", selection_ratio=1.0).logits

    def _teacher(self, name: str) -> HeMolmo:
        """A model of this architecture with other weights, which does not learn.

        Raises:
            OLMoConfigurationError: the weights are of a part of the model.
        """
        scorer = self.he_config.token_scorer.replace(scorer=ScorerType.uniform)
        teacher = HeMolmo(self.he_config.replace(token_scorer=scorer))
        missing = [name for name in fill(teacher, name) if name.startswith(("llm.", "vision_backbone."))]
        if missing:
            raise OLMoConfigurationError(
                f"{name} has no {missing[0]} and {len(missing) - 1} more; name a whole model",
                "selection.output_teacher",
            )
        teacher.encodes_once = True
        return teacher.eval().requires_grad_(False)

    def _divergence(self, taught: torch.Tensor, said: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Kullback-Leibler divergence of `said` `[n, V]` from `taught` `[n, V]`, mean over the loss weights."""
        rows, columns, _ = target_positions(batch["labels"], batch.get("subsegment_ids"))
        weights = batch["loss_masks"][rows, columns + 1].float().clamp(min=0)  # [n]
        log_said, log_taught = (F.log_softmax(logits.float(), dim=-1) for logits in (said, taught))
        each = F.kl_div(log_said, log_taught, reduction="none", log_target=True).sum(dim=-1)  # [n]
        return (each * weights).sum() / weights.sum().clamp(min=1e-6)

    # -- arithmetic ------------------------------------------------------------------------------------------------

    def flops(self, batch: Batch) -> float:
        """As for the language task, with kept tokens alone in the language model, and with the passes of teachers.

        A column token counts as kept, and the scorer itself, a thousandth of the language model, does not count.
        """
        whole = batch["attention_mask"].sum(dim=1)
        total = self.flops_with_backward(self.flops_of_forward(batch, whole - self._n_dropped(batch)))
        if self._is_taught:
            total += self.flops_of_forward(batch, whole).total
        if self.he_config.token_scorer.distillation_weight > 0.0:
            total += self._distillation_flops(batch, whole)
        return total

    def encoded_crops(self, batch: Batch) -> torch.Tensor:
        """Each picture once, however many rows ask about it."""
        return super().encoded_crops(batch) & ~batch[IS_REPEAT][:, None]

    def flops_with_backward(self, forward: Flops) -> float:
        """Of forward and backward pass; gradients reach the scorer through the language model, also a frozen one."""
        total, settings = super().flops_with_backward(forward), component_configs(self.config.optimizer)
        is_frozen = self.config.lora is None and all(settings[part].is_frozen for part in PARTS)
        return total + forward.llm if is_frozen else total

    def _n_dropped(self, batch: Batch) -> torch.Tensor:
        """`[B]`: picture tokens of each row that are left out."""
        if "image_input_idx" not in batch:
            return torch.zeros(len(batch["input_ids"]), dtype=torch.long)
        sizes, scorer = (batch["image_input_idx"] >= 0).sum(dim=-1), self.he_config.token_scorer  # [B, N]
        total = sizes.sum(dim=1)
        if scorer.granularity is Granularity.per_crop:
            return total - kept_counts(sizes, self.ratio, scorer.min_per_crop).sum(dim=1)
        return total - kept_counts(total, self.ratio, scorer.min_keep)

    def _distillation_flops(self, batch: Batch, whole: torch.Tensor) -> float:
        """Of the language model with every token, as far as the teacher reads it; rows of `whole` `[B]` tokens."""
        scorer, llm = self.he_config.token_scorer, self.he_config.llm
        n_tokens, n_pairs = int(whole.sum()), int(whole.double().square().sum())
        if scorer.teacher is Teacher.gradient:  # forward, and back to the features
            return 2.0 * llm_flops(llm, n_tokens, n_pairs, int((batch["labels"] != -100).sum()))
        n_layers = max(1, math.ceil(scorer.teacher_layer * llm.n_layers))
        return n_layers / llm.n_layers * llm_flops(llm, n_tokens, n_pairs)


def _without_repeats(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != IS_REPEAT}


def _checked(config: TrainConfig, model: ModelBase) -> HeMolmoConfig:
    """The configuration of a HeMolmo that can learn to choose.

    Raises:
        OLMoConfigurationError: it is none, nothing of its scorer learns, or rows have several questions.
    """
    if not isinstance(model, HeMolmo):
        raise OLMoConfigurationError(
            f"selected_language trains a HeMolmo, and this model is a {type(model).__name__}; set model_name: he_molmo "
            "in its configuration, which takes the same weights, or take task: language",
            "task",
        )
    if not any(True for _ in model.token_selector.parameters()):
        raise OLMoConfigurationError(
            f"{model.config.token_scorer.scorer.value} has nothing to learn; take cross or lowres_llm, or task: "
            "language, which trains the rest of the model behind such a choice",
            "token_scorer.scorer",
        )
    is_adapted = config.lora is not None
    if config.optimizer.selector.is_frozen or (is_adapted and not _learns(model.token_selector)):
        raise OLMoConfigurationError(
            "the scorer would learn nothing; "
            + ("add selector to lora.whole_parts" if is_adapted else "leave is_frozen out")
            + ", or take task: language",
            "lora.whole_parts" if is_adapted else "optimizer.selector.is_frozen",
        )
    if config.pack:
        raise OLMoConfigurationError(
            "a HeMolmo reads one question for each row, and packing puts several into one; set pack: false", "pack"
        )
    return model.config


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module, which is in training, is not while the context is open."""
    module.eval()
    try:
        yield
    finally:
        module.train()

"""What quantising does to a model: its logits, its answers on scenes and its size, before and after.

The two models need not be in memory together: what one does is noted down, then compared with what the other does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.scene import make_scene
from olmo.eval.report import wilson_interval
from olmo.eval.scenes_eval import Item, Progress, answer_items
from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase
from olmo.quantization.layers import module_bytes, narrow_layers

_BATCH_SIZE = 8


@dataclass(frozen=True)
class Behaviour:
    """What a model does with questions about scenes.

    Attributes:
        logits: float32 `[n, V]` at every token of the right answers, given what comes before it.
        is_right: for each question, whether the model's own answer is right.
        n_bytes: bytes of all weights.
        n_linear_bytes: bytes of the narrow layers, 0 for a model in full precision.
    """

    logits: Tensor
    is_right: tuple[bool, ...]
    n_bytes: int
    n_linear_bytes: int


@dataclass(frozen=True)
class QuantizationReport:
    """A quantised model beside the one it was made of.

    Attributes:
        n_questions: questions about scenes that were asked.
        n_positions: tokens of right answers at which logits were compared.
        logit_distance: root mean square difference of the logits, over the standard deviation of those before.
        kl: mean divergence of the distribution after from that before, in nats.
        top1_agreement: share of positions at which both have the same likeliest token.
        accuracy_before: share of right answers.
        accuracy_after: the same.
        interval_after: 95 % interval of `accuracy_after`.
        bytes_before: all weights.
        bytes_after: the same.
        linear_bytes_before: the matrices that are narrow now, in float32 whatever they were stored in.
        linear_bytes_after: the same with their scales.
    """

    n_questions: int
    n_positions: int
    logit_distance: float
    kl: float
    top1_agreement: float
    accuracy_before: float
    accuracy_after: float
    interval_after: tuple[float, float]
    bytes_before: int
    bytes_after: int
    linear_bytes_before: int
    linear_bytes_after: int

    def asdict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "interval_after": list(self.interval_after)}


def scene_questions(n_scenes: int) -> list[Item]:
    """Questions about `n_scenes` pictures that no model of ours was trained on, at least 1.

    Raises:
        OLMoInputError: fewer.
    """
    if n_scenes < 1:
        raise OLMoInputError(f"the report needs at least 1 scene, got {n_scenes}")
    return ScenesDataset().evaluation_items(n_scenes)


def behaviour(model: ModelBase, items: Sequence[Item], progress: Progress | None = None) -> Behaviour:
    """Note down what a model does with `items`, as `scene_questions` gives them.

    Args:
        model: a model that takes pictures.
        items: questions; the same for both models.
        progress: is called with (questions done, questions in all).
    """
    logits = _answer_logits(model, items)
    answered = answer_items(model, items, progress=progress)
    narrow = sum(module_bytes(layer) for layer in narrow_layers(model).values())
    return Behaviour(logits, tuple(one.is_right for one in answered), module_bytes(model), narrow)


def compare(before: Behaviour, after: Behaviour, n_narrow_numbers: int) -> QuantizationReport:
    """The report on two models that were asked the same.

    Args:
        before: of the model in full precision.
        after: of the quantised one.
        n_narrow_numbers: numbers in its narrow matrices.
    """
    a, b = before.logits, after.logits
    n_right = sum(after.is_right)
    return QuantizationReport(
        n_questions=len(after.is_right),
        n_positions=len(a),
        logit_distance=float((b - a).square().mean().sqrt() / a.std()),
        kl=float(F.kl_div(b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="batchmean")),
        top1_agreement=float((a.argmax(-1) == b.argmax(-1)).float().mean()),
        accuracy_before=sum(before.is_right) / len(before.is_right),
        accuracy_after=n_right / len(after.is_right),
        interval_after=wilson_interval(n_right, len(after.is_right)),
        bytes_before=before.n_bytes,
        bytes_after=after.n_bytes,
        linear_bytes_before=4 * n_narrow_numbers,
        linear_bytes_after=after.n_linear_bytes,
    )


@torch.no_grad()
def _answer_logits(model: ModelBase, items: Sequence[Item]) -> Tensor:
    """Float32 `[n, V]` on the CPU at the tokens of all right answers."""
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    collate, found = model.config.build_collator(include_metadata=False), []
    for first in range(0, len(items), _BATCH_SIZE):
        batch = collate([preprocess(_example(item)) for item in items[first : first + _BATCH_SIZE]])
        found.append(model(**batch, logits_at="labels").logits.float().cpu())
    return torch.cat(found)


def _example(item: Item) -> dict[str, Any]:
    seed, question = item
    return {"image": make_scene(seed).image, "messages": question.messages(), "style": question.style}

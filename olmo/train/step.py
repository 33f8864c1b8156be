"""One training step: gradients of all micro-batches of all processes, as if they had been one batch.

The divisor of the loss is global. Every micro-batch gives its mean loss times its share of the summed loss weights of
the whole step, over micro-batches and processes, so neither their number nor how examples fall into them changes what
is learned. What is learned, and on how many processes, is the business of the task and of `Parallel`.

Source: Deitke et al. 2024 (Molmo), appendix on training: dividing by each device's own count costs accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from olmo.train.parallel.processes import Parallel
from olmo.train.task import Batch, Tally, TrainTask
from olmo.train.train_config import Precision


@dataclass(frozen=True)
class StepSums:
    """What a step came to, the same on every process.

    Attributes:
        loss: mean over the loss weights of the step.
        weight: sum of the loss weights.
        averages: tallied numbers of the task; a name without any weight in this step is left out.
        counts: `n_tokens` and `flops`, summed.
    """

    loss: float
    weight: float
    averages: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


def run_micro_batches(
    task: TrainTask,
    micro_batches: Sequence[Batch],
    parallel: Parallel,
    *,
    precision: Precision = Precision.fp32,
    with_gradient: bool = True,
) -> StepSums:
    """Forward, and backward where wanted, over the micro-batches of this process; gradients are added up.

    Every process must call it, with one micro-batch or more. One with fewer than another runs its last one again
    without weight, because all take part in each exchange.

    Args:
        task: gives the losses.
        micro_batches: this process's share of the step.
        parallel: the other processes.
        precision: arithmetic of forward and backward.
        with_gradient: False only measures.

    Returns:
        Loss and logged numbers over all processes.
    """
    weights = [task.weight(batch) for batch in micro_batches]
    n_tokens = sum(task.n_tokens(batch) for batch in micro_batches)
    flops = sum(task.flops(batch) for batch in micro_batches)
    total, n_tokens_all, flops_all = parallel.sum([sum(weights), float(n_tokens), flops])
    n_rounds = parallel.max(len(micro_batches))
    loss_sum = torch.zeros((), device=parallel.device)
    tally: Tally = {}
    for i in range(n_rounds):
        is_filler = i >= len(micro_batches)
        batch = to_device(micro_batches[-1 if is_filler else i], parallel.device)
        share = 0.0 if is_filler or total == 0.0 else weights[i] / total
        with parallel.micro_batch(is_last=i == n_rounds - 1), torch.set_grad_enabled(with_gradient):
            with autocast(parallel.device, precision):
                loss, parts = task.loss(batch)
            # A filler has no share, and zero times a loss that is not a number would be one no more.
            scaled = loss * (share * parallel.gradient_scale)
            if scaled.requires_grad:  # not where all that learns is frozen for now
                scaled.backward()
        if not is_filler:
            loss_sum += loss.detach().float() * share
            _add(tally, parts)
    loss_all, *sums = parallel.sum([loss_sum, *_in_order(tally, task.tally_names)])
    pairs = zip(task.tally_names, sums[::2], sums[1::2], strict=True)
    return StepSums(
        loss=loss_all,
        weight=total,
        averages={name: above / below for name, above, below in pairs if below},
        counts={"n_tokens": n_tokens_all, "flops": flops_all},
    )


def what_is_wrong(sums: StepSums, norms: Mapping[str, float]) -> str | None:
    """Why a step must not be taken, or None. The numbers are global, so every process finds the same."""
    if not sums.weight > 0:
        return "no example of it has a token to learn (are answers cut off by sequence_length?)"
    if not math.isfinite(sums.loss):
        return f"its loss is {sums.loss}"
    broken = [f"{name} {norm}" for name, norm in norms.items() if not math.isfinite(norm)]
    return f"the gradient norm is not finite: {', '.join(broken)}" if broken else None


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic over float32 weights, or nothing."""
    # Without its cache: that would hold a bfloat16 copy of every weight to the end of the forward pass, also of blocks
    # that are gathered for a moment or computed again later. A weight is used once a pass anyway.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.amp_bf16, cache_enabled=False)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _add(tally: Tally, parts: Tally) -> None:
    for name, (above, below) in parts.items():
        old_above, old_below = tally.get(name, (0.0, 0.0))
        tally[name] = (old_above + above, old_below + below)


def _in_order(tally: Tally, names: Sequence[str]) -> list[torch.Tensor | float]:
    """Numerators and denominators in the order of `names`, zeros where nothing was tallied."""
    unknown = set(tally) - set(names)
    assert not unknown, f"the task tallied {unknown} without naming them"
    return [value for name in names for value in tally.get(name, (0.0, 0.0))]

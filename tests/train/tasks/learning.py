"""Trains a grounded task on two examples until it knows them."""

from __future__ import annotations

import numpy as np
import torch

from olmo.train.tasks.grounding import GroundedLanguageTask

N_STEPS = 60


def learned_by_heart(task: GroundedLanguageTask) -> list[dict[str, float]]:
    """Means of what each step tells, and its `loss`."""
    batch = task.collate([task.prepare(task.stream[i], np.random.default_rng(i)) for i in range(2)])
    task.module.train()
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=3e-3)
    means = []
    for _ in range(N_STEPS):
        loss, tally = task.loss(batch)
        means.append(
            {name: float(sum_) / float(n) for name, (sum_, n) in tally.items()} | {"loss": float(loss.detach())}
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return means

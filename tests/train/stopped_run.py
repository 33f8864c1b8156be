"""A run that is stopped in the middle and resumed by another trainer."""

from __future__ import annotations

from pathlib import Path

from olmo.train.run import build_trainer
from olmo.train.trainer import Trainer


def stop_and_resume(recipe: Path, overrides: list[str], after: int) -> Trainer:
    """Train up to step `after`, save, and let another trainer finish; returns that one."""
    first = build_trainer(recipe, overrides)
    first.start()
    for batch in first.batches():
        first.train_step(batch)
        if first.step == after:
            first.save()
            break
    first.close()
    resumed = build_trainer(recipe, overrides)
    resumed.fit()
    return resumed

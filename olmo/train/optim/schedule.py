"""Learning-rate factors over steps. Pure numbers."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, warmup_steps: int, max_steps: int, final_ratio: float = 0.1) -> float:
    """Factor on the peak learning rate.

    Args:
        step: 0-based step about to be taken.
        warmup_steps: steps of linear warm-up from 0; the peak is reached at this step.
        max_steps: step at which the cosine has come down to final_ratio.
        final_ratio: factor at and after max_steps, in [0, 1].

    Returns:
        A factor in (0, 1].

    Source:
        molmo technical notes, section 10: linear warm-up, then cosine to 10 % per component.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final_ratio + (1.0 - final_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

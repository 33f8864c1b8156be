"""How much of the pictures a HeMolmo is shown at each step of a run, and how much noise its choice gets.

Everything follows from step and seed, so all processes do the same, and so does a run that was stopped in between.

Source: the cosine course is that of learning rates; ratios drawn at random keep one checkpoint fit for many, after
Matryoshka training (Kusupati et al. 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError

_STREAM = 64  # keeps the draws apart from others of the same seed and step


@dataclass(kw_only=True)
class SelectionConfig(BaseConfig):
    """The course of `selected_language`: which share of the picture tokens stays, and what teaches it."""

    start: float = 1.0
    """Selection ratio of the first step, above 0 to 1."""

    target: float | None = None
    """Selection ratio that the course ends at, above 0 to 1; None: that of the model."""

    curriculum_share: float = 0.5
    """Share of the steps in which the ratio goes from `start` to `target` along a cosine, 0 to 1."""

    random_share: float = 0.25
    """Share of the steps after that whose ratio is drawn anew, so that it stays free at inference; 0 to 1."""

    random_low: float = 0.125
    """Drawn ratios are evenly spread from here to 1; above 0 to 1."""

    whole_share: float = 0.1
    """Share of the steps after that in which all tokens stay, so that the whole model is not unlearned; 0 to 1, and at
    most 1 together with `random_share`."""

    exploration: float = 1.0
    """Scale of the Gumbel noise that scores get before the choice; it falls linearly to 0 at the end. 0 or more."""

    output_weight: float = 0.5
    """Weight of the divergence of what the model says with some of its tokens from what it says with all, 0 or more;
    0: none. It costs a further forward pass."""

    output_teacher: str | None = None
    """What else to draw it to: what this model says with all tokens, which does not learn. A folder, a hub id or the
    name of a bundled model, of the same architecture; None: the model in training itself. With a teacher of its own the
    divergence is taken in all steps, also those that keep all tokens."""

    questions: int = 1
    """Conversations of an example that are drawn for a step, at least 1. Each is a row with a choice of tokens of its
    own; the picture is encoded once for all of them. `batch_size` counts examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "target", "random_low"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise OLMoConfigurationError(f"must be above 0 and at most 1, got {value}", name)
        for name in ("curriculum_share", "random_share", "whole_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise OLMoConfigurationError(f"must be 0 to 1, got {getattr(self, name)}", name)
        if self.random_share + self.whole_share > 1:
            raise OLMoConfigurationError(
                f"and random_share are {self.random_share + self.whole_share:g} together, at most 1", "whole_share"
            )
        if self.questions < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.questions}", "questions")
        if self.output_teacher is not None and self.output_weight == 0.0:
            raise OLMoConfigurationError("does not count while output_weight is 0; raise that", "output_teacher")
        for name in ("exploration", "output_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)


def ratio_at(config: SelectionConfig, target: float, step: int, max_steps: int, seed: int) -> float:
    """Selection ratio of a step.

    Args:
        config: the course.
        target: the ratio it ends at, above 0 to 1.
        step: 0-based step about to be taken.
        max_steps: steps of the run.
        seed: of the run.
    """
    n_steps = config.curriculum_share * max_steps
    if step < n_steps:
        return target + (config.start - target) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
    draw = np.random.default_rng((seed, step, _STREAM))
    kind = draw.random()
    if kind < config.random_share:
        return float(draw.uniform(config.random_low, 1.0))
    if kind >= 1.0 - config.whole_share:
        return 1.0
    return target


def exploration_at(config: SelectionConfig, step: int, max_steps: int) -> float:
    """Scale of the noise in a step; arguments as in `ratio_at`."""
    return config.exploration * max(0.0, 1.0 - step / max_steps)

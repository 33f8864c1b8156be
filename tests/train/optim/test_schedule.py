from __future__ import annotations

from itertools import pairwise

import pytest

from olmo.train.optim.schedule import warmup_cosine


def factor(step: int, **changes: float) -> float:
    return warmup_cosine(step, **({"warmup_steps": 10, "max_steps": 110, "final_ratio": 0.1} | changes))


def test_warms_up_linearly_from_above_zero() -> None:
    factors = [factor(step) for step in range(11)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    differences = [b - a for a, b in pairwise(factors)]
    assert differences == pytest.approx([differences[0]] * 10)


def test_cosine_falls_to_the_final_ratio_and_stays() -> None:
    assert factor(60) == pytest.approx(0.55)
    assert factor(110) == pytest.approx(0.1)
    assert factor(10_000) == pytest.approx(0.1)
    falling = [factor(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert factor(0, warmup_steps=0) == 1.0

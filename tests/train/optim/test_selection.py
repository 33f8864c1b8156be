"""How much of the pictures stays over a run: down along a cosine, then mostly there, sometimes anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.train.optim.selection import SelectionConfig, exploration_at, ratio_at

N = 4000


def course(config: SelectionConfig, target: float = 0.25, seed: int = 0) -> np.ndarray:
    return np.array([ratio_at(config, target, step, N, seed) for step in range(N)])


def test_p64_the_ratio_falls_along_a_cosine_and_then_some_are_drawn() -> None:
    ratios = course(SelectionConfig())
    first, rest = ratios[: N // 2], ratios[N // 2 :]
    assert first[0] == 1.0 and first[N // 4] == pytest.approx(0.625)
    assert (np.diff(first) < 0).all() and first[-1] == pytest.approx(0.25, abs=1e-5)
    assert (rest == 1.0).mean() == pytest.approx(0.1, abs=0.03), "some steps see everything"
    drawn = rest[(rest != 0.25) & (rest != 1.0)]
    assert len(drawn) / len(rest) == pytest.approx(0.25, abs=0.03)
    assert drawn.min() >= 0.125 and drawn.max() <= 1.0
    shares = np.histogram(drawn, bins=7, range=(0.125, 1.0))[0] / len(drawn)
    assert np.abs(shares - 1 / 7).max() < 0.05, "evenly spread"


def test_every_process_and_every_restart_draws_the_same() -> None:
    config = SelectionConfig(curriculum_share=0.0, random_share=1.0, whole_share=0.0)
    assert np.array_equal(course(config), course(config))
    assert not np.array_equal(course(config), course(config, seed=1))
    assert len(set(course(config))) == N, "each step has a draw of its own"


def test_a_course_without_chance_and_one_without_a_curriculum() -> None:
    assert set(course(SelectionConfig(curriculum_share=0.0, random_share=0.0, whole_share=0.0))) == {0.25}
    slow = course(SelectionConfig(start=0.5, curriculum_share=1.0))
    assert slow[0] == 0.5 and (np.diff(slow) < 0).all() and slow[-1] > 0.25


def test_noise_goes_away() -> None:
    config = SelectionConfig(exploration=2.0)
    assert [exploration_at(config, step, 4) for step in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert exploration_at(SelectionConfig(exploration=0.0), 0, 4) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", 0.0), ("target", 1.5), ("random_low", -0.1), ("curriculum_share", 2.0), ("random_share", -1.0),
        ("whole_share", 0.9),
        ("exploration", -1.0), ("output_weight", float("inf")), ("output_weight", float("nan")),
        ("questions", 0),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(name: str, value: float) -> None:
    with pytest.raises(OLMoConfigurationError, match=name):
        SelectionConfig(**{name: value})


def test_a_teacher_of_no_weight_is_refused() -> None:
    with pytest.raises(OLMoConfigurationError, match="output_teacher: does not count while output_weight is 0"):
        SelectionConfig(output_teacher="molmo-nano", output_weight=0.0)

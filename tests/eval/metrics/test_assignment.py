from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from olmo.eval.metrics.assignment import cheapest_pairs


def test_total_cost_is_that_of_scipy() -> None:
    """1,000 random matrices, whole numbers with ties and real ones; total costs equal to 1e-9."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        n, m = rng.integers(1, 9, 2)
        costs = rng.integers(0, 12, (n, m)).astype(float) if rng.random() < 0.5 else rng.normal(size=(n, m))
        pairs = cheapest_pairs(costs)
        rows, columns = linear_sum_assignment(costs)
        assert len(pairs) == min(n, m) == len({i for i, _ in pairs}) == len({j for _, j in pairs})
        assert abs(sum(costs[i, j] for i, j in pairs) - costs[rows, columns].sum()) < 1e-9


def test_by_hand() -> None:
    # The greedy choice 1 + 100 costs more than 2 + 3.
    assert cheapest_pairs(np.array([[1.0, 2.0], [3.0, 100.0]])) == [(0, 1), (1, 0)]
    assert cheapest_pairs(np.array([[5.0], [1.0], [3.0]])) == [(1, 0)]

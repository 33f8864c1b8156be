"""The cheapest pairing of two sets, each member used once at most.

Source: the shortest augmenting path form of the Hungarian method (R. Jonker and A. Volgenant, 1987). Written here, and
tested against SciPy, so that scoring points needs no further package.
"""

from __future__ import annotations

import numpy as np


def cheapest_pairs(costs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost; as many as the smaller side has.

    Args:
        costs: finite numbers `[n, m]`.

    Returns:
        Pairs in order of the rows.
    """
    n, m = costs.shape
    if n > m:
        return sorted((row, column) for column, row in cheapest_pairs(costs.T))
    row_price, column_price = np.zeros(n), np.zeros(m)
    row_of = np.full(m, -1)
    for start in range(n):
        # Dijkstra over columns: `cost_to[j]` is the reduced cost of freeing column j for the new row.
        cost_to, before, is_done = np.full(m, np.inf), np.full(m, -1), np.zeros(m, dtype=bool)
        row, column, reached, cost = start, -1, [], 0.0
        while True:
            through = cost + costs[row] - row_price[row] - column_price
            is_better = ~is_done & (through < cost_to)
            cost_to[is_better], before[is_better] = through[is_better], column
            column = int(np.where(is_done, np.inf, cost_to).argmin())
            cost = float(cost_to[column])
            is_done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            reached.append((row, column))
        row_price[start] += cost
        for reached_row, reached_column in reached:
            row_price[reached_row] += cost - cost_to[reached_column]
            column_price[reached_column] -= cost - cost_to[reached_column]
        while column >= 0:  # each column on the path takes over the row of the one before it
            previous = int(before[column])
            row_of[column] = start if previous < 0 else row_of[previous]
            column = previous
    return sorted((int(row), column) for column, row in enumerate(row_of) if row >= 0)

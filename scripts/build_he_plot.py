"""Draw what leaving picture tokens out costs in right answers, from `benchmarks/results/he_accuracy.json`.

    python scripts/build_he_plot.py

Writes `docs/images/he_accuracy.png`: one curve for each scorer, over the operations up to the first token. Bars are
95 % intervals of the difference to the whole model, answer by answer. Needs the extra `plots`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "he_accuracy.json"
TARGET = ROOT / "docs" / "images" / "he_accuracy.png"

STYLES: Mapping[str, tuple[str, str]] = {
    "cross": ("#2563eb", "o"),
    "lowres_llm": ("#9333ea", "D"),
    "vit_attention": ("#0f9d58", "^"),
    "norm": ("#a16207", "v"),
    "uniform": ("#475569", "s"),
    "random": ("#d9480f", "x"),
}
"""Colour and marker of a scorer."""

Row = Mapping[str, Any]


def main() -> None:
    """Draw and write the picture."""
    rows: Sequence[Row] = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), sharey=False)
    draw(panels[0], rows, "mean of all tasks", lambda r: (r["mean_difference"], r["mean_difference_error"]))
    for panel, task in zip(panels[1:], ("pointing", "reading"), strict=True):
        draw(panel, rows, task, lambda r, task=task: difference(r, task))
    panels[0].set_ylabel("points lost to molmo-nano")
    panels[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(TARGET, dpi=110)
    print(TARGET.relative_to(ROOT))


def difference(row: Row, task: str) -> tuple[float, float]:
    """Difference to the whole model in a task, and its error; 0 to 1."""
    figure = row["tasks"][task]
    return figure["difference"], figure["difference_error"]


def draw(panel: Any, rows: Sequence[Row], title: str, value: Any) -> None:
    """One panel: a curve for each scorer."""
    for scorer, (colour, marker) in STYLES.items():
        of = sorted((r for r in rows if r["scorer"] == scorer), key=lambda r: r["operations"])
        if not of:
            continue
        values = [value(row) for row in of]
        panel.errorbar(
            [row["operations"] for row in of],
            [100 * v for v, _ in values],
            yerr=[100 * error for _, error in values],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.6 if scorer == "cross" else 1.0,
            capsize=2,
            label=scorer,
        )
    panel.axhline(0, color="#94a3b8", linewidth=0.8, zorder=0)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("operations up to the first token, molmo-nano = 1", fontsize=9)
    panel.grid(alpha=0.25)


if __name__ == "__main__":
    main()

"""What HeMolmo-nano keeps of molmo-nano's answers, and for how much."""

from __future__ import annotations

from doc_tables.cells import percent, points, result, shown, table
from olmo.models.bundled import BUNDLED_MODEL

NOT_MEASURED = "Not measured yet: `python benchmarks/he_accuracy.py --save` writes the figures."
LEARNED_SCORER = "cross"


def he_tasks() -> str:
    """Every task: molmo-nano's accuracy, and what each ratio of the learned scorer takes from it or adds."""
    if (found := result("he_accuracy")) is None:
        return NOT_MEASURED
    rows = [row for row in found["rows"] if row["scorer"] in (BUNDLED_MODEL, LEARNED_SCORER)]
    peer, learned = rows[0], rows[1:]
    header = ("Task", BUNDLED_MODEL, *(f"at {row['ratio']:g}" for row in learned))
    cells = [
        (shown(task), percent(figure["accuracy"]), *(points(row["tasks"][task]) for row in learned))
        for task, figure in peer["tasks"].items()
    ]
    cells.append(("mean", percent(peer["mean"]), *(points(row, "mean_") for row in learned)))
    tokens = ", ".join(f"{row['picture_tokens']} at {row['ratio']:g}" for row in learned)
    source = (
        f"{peer['n_scenes']} scenes from unseen seeds. Points of a percent gained or lost to {BUNDLED_MODEL}, answer "
        f"by answer, with their 95 % intervals; where points are asked for, F1. Picture tokens: {tokens}; source: "
        "`benchmarks/results/he_accuracy.json`."
    )
    return f"{table(header, cells)}\n\n{source}"


def he_scorers() -> str:
    """Every scorer at every ratio: its cost and what it loses."""
    if (found := result("he_accuracy")) is None:
        return NOT_MEASURED
    shown_tasks = ("naming", "counting", "pointing", "reading")
    header = ("Scorer", "Ratio", "Operations", "of the language model", "Mean", *shown_tasks)
    cells = [
        (
            f"`{row['scorer']}`",
            f"{row['ratio']:g}",
            f"{row['operations']:.2f}",
            f"{row['llm_operations']:.2f}",
            points(row, "mean_"),
            *(points(row["tasks"][task]) for task in shown_tasks),
        )
        for row in found["rows"]
        if row["scorer"] != BUNDLED_MODEL
    ]
    return table(header, cells)

"""`molmo plot`: the curves of runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from olmo.viz.curves import plot_runs
from olmo.viz.run_metrics import read_run


def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders (run_dir of a recipe), or metrics.jsonl files.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Picture to write: .png, .svg, .pdf. [default: curves.png in the run folder]"
        ),
    ] = None,
    smooth: Annotated[float, typer.Option(help="Lines of metrics that losses are averaged over; 0 for none.")] = 5.0,
) -> None:
    """Draw losses, evaluations, learning rates and speed of runs."""
    read = [read_run(run) for run in runs]
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    target = output or (first if len(runs) == 1 else Path()) / "curves.png"
    typer.echo(plot_runs(read, target, smooth))

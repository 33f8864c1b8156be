"""The curves of one or several runs as a picture. Needs the extra `plots` (matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.viz.run_metrics import Curve, RunMetrics, smoothed

FORMATS = (".png", ".svg", ".pdf")
COLOURS = ("#2563eb", "#d9480f", "#0f9d58", "#9333ea", "#c2255c", "#0891b2", "#a16207", "#475569", "#65a30d", "#7f1d1d")
"""One for each curve of a panel, repeating; of the same run or the same number, whichever there is one of."""

_STYLES = ("-", "--", ":", "-.")
_MAX_CURVES = 10
_SHARES = {"mfu": "MFU", "wait_share": "waiting for data"}


@dataclass(frozen=True)
class _Panel:
    """One set of axes: a title, the numbers it shows, and how."""

    title: str
    has: Callable[[str], bool]
    label: Callable[[str], str]
    is_log: bool = False
    is_smoothed: bool = False
    is_of_evaluations: bool = False
    is_share: bool = False


def _named(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def _begins(prefix: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefix)


def _without(prefix: str) -> Callable[[str], str]:
    return lambda name: name.removeprefix(prefix)


def _is_loss(name: str) -> bool:
    return name.rpartition("/")[2] == "loss"


PANELS = (
    _Panel("training loss", _named("loss"), lambda _: "", is_smoothed=True),
    _Panel("training loss of each task", _begins("loss_"), _without("loss_"), is_smoothed=True),
    _Panel("validation loss", _is_loss, lambda name: name.removesuffix("/loss"), is_of_evaluations=True),
    _Panel("evaluation", lambda name: not _is_loss(name), str, is_of_evaluations=True),
    _Panel("learning rate", _begins("lr_"), _without("lr_")),
    _Panel("gradient norm before clipping", _begins("grad_norm_"), _without("grad_norm_"), is_log=True),
    _Panel("tokens a second", _named("tokens_per_s"), lambda _: ""),
    _Panel("shares of peak and of time", _named("mfu", "wait_share"), lambda name: _SHARES[name], is_share=True),
    _Panel("peak memory (GiB)", _named("memory_gib"), lambda _: ""),
)
"""Panels in the order they are drawn; one that no run has numbers for is left out."""


def plot_runs(runs: Sequence[RunMetrics], path: str | Path, smooth: float = 5.0) -> Path:
    """Draw the curves of runs, over one another where there are several.

    Args:
        runs: at least one.
        path: file to write; `.png`, `.svg` or `.pdf`.
        smooth: how many lines of metrics losses are averaged over; 0 draws them as they are. The unsmoothed curve
            shows faintly behind.

    Returns:
        The path.

    Raises:
        OLMoInputError: no runs, another format, or nothing to draw.
        OLMoConfigurationError: matplotlib is not installed.
    """
    target = Path(path)
    if not runs:
        raise OLMoInputError("there is no run to draw")
    if target.suffix.lower() not in FORMATS:
        raise OLMoInputError(f"{target.name!r} has no ending of {', '.join(FORMATS)}")
    if smooth < 0 or not math.isfinite(smooth):
        raise OLMoInputError(f"smooth is a number of lines, 0 or more, got {smooth}")
    panels = [panel for panel in PANELS if any(_curves_of(run, panel) for run in runs)]
    if not panels:
        raise OLMoInputError(f"there is nothing to draw in {', '.join(run.name for run in runs)}")
    figure = _new_figure(len(panels))
    for axes, panel in zip(figure.axes, panels, strict=True):
        _draw(axes, panel, runs, smooth)
    figure.suptitle(", ".join(_titles(runs)))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    return target


def _new_figure(n_panels: int) -> Any:
    """A figure with its axes. It is made without pyplot, so that no window system and no global state is touched."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise OLMoConfigurationError("drawing curves needs matplotlib: pip install 'molmo[plots]'") from None
    n_columns = min(n_panels, 3)
    n_rows = math.ceil(n_panels / n_columns)
    figure = Figure(figsize=(5.2 * n_columns, 3.5 * n_rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    for k in range(n_panels):
        figure.add_subplot(n_rows, n_columns, k + 1)
    return figure


def _curves_of(run: RunMetrics, panel: _Panel) -> dict[str, Curve]:
    source = run.evaluations if panel.is_of_evaluations else run.curves
    return {name: curve for name, curve in source.items() if panel.has(name)}


def _draw(axes: Any, panel: _Panel, runs: Sequence[RunMetrics], smooth: float) -> None:
    """One panel. With one run colours tell numbers apart; with several, colours tell runs and dashes tell numbers."""
    names = list(dict.fromkeys(name for run in runs for name in _curves_of(run, panel)))
    shown = names[:_MAX_CURVES]
    for i, (run, title) in enumerate(zip(runs, _titles(runs), strict=True)):
        curves = _curves_of(run, panel)
        for k, name in enumerate(shown):
            if name not in curves:
                continue
            colour = COLOURS[(i if len(runs) > 1 else k) % len(COLOURS)]
            style = _STYLES[k % len(_STYLES)] if len(runs) > 1 else "-"
            label = " ".join(part for part in (title if len(runs) > 1 else "", panel.label(name)) if part)
            _draw_curve(axes, panel, curves[name], smooth, color=colour, linestyle=style, label=label or None)
    axes.set_title(panel.title if len(names) <= _MAX_CURVES else f"{panel.title} (first {_MAX_CURVES})", fontsize=11)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    if panel.is_log:
        axes.set_yscale("log")
    if panel.is_share:
        axes.yaxis.set_major_formatter("{x:.0%}")
    if panel.is_of_evaluations:
        _mark_warnings(axes, runs)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, framealpha=0.6)


def _draw_curve(axes: Any, panel: _Panel, curve: Curve, smooth: float, **looks: Any) -> None:
    values: Sequence[float] = curve.values
    if panel.is_smoothed and smooth and len(curve.steps) > 2:
        axes.plot(curve.steps, curve.values, color=looks["color"], alpha=0.2, lw=0.8)
        values = smoothed(curve.values, smooth)
    marker = "." if panel.is_of_evaluations or len(curve.steps) == 1 else None
    axes.plot(curve.steps, values, marker=marker, lw=1.4, **looks)


def _mark_warnings(axes: Any, runs: Sequence[RunMetrics]) -> None:
    """A line where a run was said to overfit."""
    for run in runs:
        for step, text in run.warnings:
            if "overfit" in text:
                axes.axvline(step, color="#b91c1c", lw=0.8, ls=":")


def _titles(runs: Sequence[RunMetrics]) -> list[str]:
    """Names of runs, numbered where two have the same."""
    names = [run.name for run in runs]
    return [f"{n} ({names[: i + 1].count(n)})" if names.count(n) > 1 else n for i, n in enumerate(names)]

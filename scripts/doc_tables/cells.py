"""How figures are written in tables, and where measured ones lie."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def result(name: str) -> dict[str, Any] | None:
    """A measurement by the name of its file; None where there is none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first and the last are numbers."""
    marks = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, marks, *rows))


def size(number: float) -> str:
    """`7.7 B` for parameters."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def gibibytes(n_bytes: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:.0f} MiB"


def percent(share: float | None) -> str:
    """A share for people; a dash where nothing was asked."""
    return "-" if share is None else f"{100 * share:.1f} %"


def shown(task: str) -> str:
    """`pointing several, near` for the task `pointing_several_near`."""
    return re.sub(r"_(near|absent)$", r", \1", task).replace("_", " ")


def points(figure: dict[str, Any], prefix: str = "") -> str:
    """`-1.2 ± 0.8`, in points of a percent."""
    return f"{100 * figure[f'{prefix}difference']:+.1f} ± {100 * figure[f'{prefix}difference_error']:.1f}"

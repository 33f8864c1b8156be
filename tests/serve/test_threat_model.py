"""The pages on security and serving: each threat has a test of the name that stands there, each limit its default."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

from olmo.serve.serve_config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without the table's own."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_each_threat_has_a_test_of_that_name() -> None:
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    rows = rows_of("security.md", "## The server")
    assert len(rows) > 25
    for threat, _, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, f"no test is named for: {threat}"
        assert set(named) <= there, f"{set(named) - there} do not exist: {threat}"


def test_the_table_of_limits_is_that_of_the_configuration() -> None:
    shown = {cells[0].strip("`"): cells[1].strip("`").replace(",", "") for cells in rows_of("serving.md", "## Limits")}
    wanted = {}
    for field in dataclasses.fields(ServeConfig):
        value = getattr(ServeConfig(), field.name)
        wanted[field.name] = "none" if value in (None, []) else f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool):
            wanted[field.name] = str(value).lower()
    assert shown == wanted

"""The pages on security and serving: each threat has a test of the name that stands there, each limit its default."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from olmo.serve.serve_config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without the table's own."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|") for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


@pytest.fixture(scope="module")
def there() -> set[str]:
    """Names of all tests."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def check_named(what: str, text: str, there: set[str]) -> None:
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named, f"no test is named for: {what}"
    assert named <= there, f"{named - there} do not exist: {what}"


def test_each_threat_has_a_test_of_that_name(there: set[str]) -> None:
    rows = rows_of("security.md", "## The server")
    assert len(rows) > 28
    for threat, _, tests in rows:
        check_named(threat, tests, there)


def test_each_weakness_of_others_has_a_test_of_that_name(there: set[str]) -> None:
    rows = rows_of("security.md", "## What happened to others")
    assert len(rows) > 12
    for known_as, _, tests in rows:
        for name in known_as.split(", "):
            assert re.fullmatch(r"CVE-\d{4}-\d+|GHSA(-\w{4}){3}|\w+ #\d+", name), f"nobody can look up {name!r}"
        check_named(known_as, tests, there)


@pytest.mark.parametrize("heading", ["## Checkpoints", "## Pictures", "## Videos"])
def test_what_is_said_of_files_names_its_tests(heading: str, there: set[str]) -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    lines = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(lines) >= 3
    for line in lines:
        check_named(line, line, there)


def test_the_table_of_limits_is_that_of_the_configuration() -> None:
    shown = {cells[0].strip("`"): cells[1].strip("`").replace(",", "") for cells in rows_of("serving.md", "## Limits")}
    wanted = {}
    for field in dataclasses.fields(ServeConfig):
        value = getattr(ServeConfig(), field.name)
        wanted[field.name] = "none" if value in (None, []) else f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool):
            wanted[field.name] = str(value).lower()
    assert shown == wanted

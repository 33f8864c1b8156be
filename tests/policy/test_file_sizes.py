"""One idea a file: files up to 400 lines, functions up to 60, `forward` up to 40."""

from __future__ import annotations

import ast
from pathlib import Path

from source_tree import ROOT, Function, functions_of, parse

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FORWARD_LINES = 40

DATA_TABLES: set[str] = set()
"""Files that hold data alone and may be longer. There are none today; name a file here, not a folder."""

FOLDERS = ("olmo", "scripts", "benchmarks", "examples", "integrations", "tests")


def python_files() -> list[Path]:
    return [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]


def docstring_lines(function: Function) -> int:
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def function_lines(function: Function) -> int:
    """Lines from `def` to the end; the docstring does not count."""
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring_lines(function)


def body_lines(function: Function) -> int:
    """Lines after signature and docstring."""
    body = function.body[1:] if docstring_lines(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_files_are_short() -> None:
    long = []
    for path in python_files():
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        if n_lines > MAX_FILE_LINES and str(path.relative_to(ROOT)) not in DATA_TABLES:
            long.append(f"{path.relative_to(ROOT)}: {n_lines} lines")
    assert not long, f"files of more than {MAX_FILE_LINES} lines; look for the seam:\n" + "\n".join(long)


def test_functions_are_short() -> None:
    long = []
    for path in python_files():
        for name, function in functions_of(parse(path)):
            place = f"{path.relative_to(ROOT)}:{function.lineno}: {name}"
            if function_lines(function) > MAX_FUNCTION_LINES:
                long.append(f"{place} has {function_lines(function)} lines, allowed are {MAX_FUNCTION_LINES}")
            if function.name == "forward" and body_lines(function) > MAX_FORWARD_LINES:
                long.append(f"{place} has {body_lines(function)} lines of body, allowed are {MAX_FORWARD_LINES}")
    assert not long, "\n".join(long)

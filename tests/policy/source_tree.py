"""The project as data for the policy tests: files, syntax trees, imports. Nothing is imported or run here."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One Python file of the package."""

    name: str
    path: Path
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        """`path:line`, as an editor understands it."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Import:
    """One imported name, absolute: `olmo.nn.llm` or `numpy`."""

    target: str
    place: str
    is_in_function: bool


def dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Module]:
    """Every module of `olmo` by dotted name."""
    return {dotted_name(p): Module(dotted_name(p), p, parse(p)) for p in sorted((ROOT / "olmo").rglob("*.py"))}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(module: Module) -> list[Import]:
    """All imports of a module, also those in functions and under TYPE_CHECKING."""
    found: list[Import] = []

    def visit(node: ast.AST, is_in_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            for target in _targets(module, child):
                found.append(Import(target, module.at(child), is_in_function))
            visit(child, is_in_function or isinstance(child, Function | ast.Lambda))

    visit(module.tree, False)
    return found


def _targets(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            # `from package import module` depends on the module, `from module import name` on the module named first.
            full = f"{base}.{alias.name}"
            yield full if full in modules() else base


def functions_of(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Functions and methods with their qualified names, nested ones too."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")
            else:
                yield from visit(child, prefix)

    yield from visit(tree, "")


@cache
def repository_files() -> tuple[Path, ...]:
    """Files that git tracks or would add; without git, everything that is not hidden or built."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = {"runs", "build", "dist", "demo_output", "__pycache__"}
        files = [
            p
            for p in ROOT.rglob("*")
            if not any(part in skipped or part.startswith((".git", ".venv")) for part in p.relative_to(ROOT).parts)
        ]
    return tuple(sorted(p for p in set(files) if p.is_file()))


def text_of(path: Path) -> str | None:
    """Content of a text file, None for a binary one."""
    data = path.read_bytes()
    if b"\0" in data[:4096]:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None

"""Every public name says what it is. How it says it is checked by ruff."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from source_tree import Function, Module, modules


def public_definitions(module: Module) -> Iterator[tuple[str, ast.AST, bool]]:
    """(qualified name, node, has a docstring) of every public class, function and method; nested ones are private."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.ClassDef):
                if child.name.startswith("_") or is_setter(child) or is_overload(child):
                    continue
                yield prefix + child.name, child, ast.get_docstring(child) is not None
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.If | ast.Try):
                yield from visit(child, prefix)

    yield from visit(module.tree, "")


def is_setter(node: ast.AST) -> bool:
    """A property is described where it is read."""
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(d, ast.Attribute) and d.attr in ("setter", "deleter") for d in decorators)


def is_overload(node: ast.AST) -> bool:
    """A signature among several; what the function does is said at the last one."""
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in getattr(node, "decorator_list", []))


def test_every_module_has_a_docstring() -> None:
    missing = [m.at(m.tree) for m in modules().values() if not ast.get_docstring(m.tree)]
    assert not missing, "\n".join(missing)


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        f"{module.at(node)}: {name}"
        for module in modules().values()
        for name, node, has_docstring in public_definitions(module)
        if not has_docstring
    ]
    assert not missing, "\n".join(missing)


def test_package_docstrings_are_short() -> None:
    long = []
    for module in modules().values():
        if module.path.name == "__init__.py" and module.name != "olmo":
            docstring = ast.get_docstring(module.tree) or ""
            if len(docstring.splitlines()) > 1:
                long.append(module.at(module.tree))
    assert not long, "a package says in one line what lives in it:\n" + "\n".join(long)

"""Errors teach, and nothing depends on hidden state: asserts have a text, the environment is read in few places."""

from __future__ import annotations

import ast

from source_tree import modules
from test_no_pickle import name_of

MAY_READ_ENVIRONMENT = ("olmo.cli", "olmo.io", "olmo.torch_util")
ENVIRONMENT = {"os.environ", "os.getenv", "os.putenv", "environ", "getenv"}


def test_asserts_and_raises_have_a_text() -> None:
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Assert) and node.msg is None:
                wrong.append(f"{module.at(node)}: assert {ast.unparse(node.test)}")
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and not node.exc.args:
                wrong.append(f"{module.at(node)}: {ast.unparse(node)}")
    assert not wrong, "without a text:\n" + "\n".join(wrong)


def test_nothing_is_swallowed() -> None:
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    wrong.append(f"{module.at(node)}: bare except")
                elif all(isinstance(statement, ast.Pass) for statement in node.body):
                    wrong.append(
                        f"{module.at(node)}: `except ...: pass`; contextlib.suppress says it better, with a reason"
                    )
    assert not wrong, "\n".join(wrong)


def test_the_environment_is_read_in_few_places() -> None:
    wrong = [
        module.at(node)
        for module in modules().values()
        if not module.name.startswith(MAY_READ_ENVIRONMENT)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name) and name_of(node) in ENVIRONMENT
    ]
    assert not wrong, f"the environment is read outside {MAY_READ_ENVIRONMENT}:\n" + "\n".join(wrong)


def test_the_library_does_not_print() -> None:
    wrong = [
        module.at(node)
        for module in modules().values()
        if not module.name.startswith("olmo.cli")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and name_of(node.func) == "print"
    ]
    assert not wrong, "\n".join(wrong)

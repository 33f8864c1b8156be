"""Every configuration field is described under its name, and some code reads it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from source_tree import Function, Module, modules


@dataclass(frozen=True)
class ConfigClass:
    """A dataclass that is a `BaseConfig`, as it stands in the source."""

    name: str
    module: Module
    node: ast.ClassDef

    def fields(self) -> Iterator[tuple[str, ast.AnnAssign, bool]]:
        """(name, node, has a docstring under it) of each field of its own."""
        for here, following in zip(self.node.body, [*self.node.body[1:], None], strict=True):
            if not isinstance(here, ast.AnnAssign) or not isinstance(here.target, ast.Name):
                continue
            if any(word in ast.unparse(here.annotation) for word in ("ClassVar", "InitVar")):
                continue
            described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            yield here.target.id, here, described


@cache
def config_classes() -> tuple[ConfigClass, ...]:
    """All of them, found by following base-class names up to `BaseConfig`."""
    classes = {
        node.name: (module, node)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }

    def is_config(name: str) -> bool:
        if name == "BaseConfig":
            return True
        _, node = classes.get(name, (None, None))
        return node is not None and any(is_config(ast.unparse(base)) for base in node.bases)

    return tuple(ConfigClass(name, *found) for name, found in classes.items() if is_config(name))


def attribute_reads(tree: ast.AST) -> Counter[str]:
    """How often each attribute name is read under `tree`."""
    return Counter(n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))


@cache
def all_reads() -> Counter[str]:
    total: Counter[str] = Counter()
    for module in modules().values():
        total += attribute_reads(module.tree)
    return total


@cache
def reads_outside(config: ConfigClass) -> frozenset[str]:
    """Attribute names read anywhere but in the class itself."""
    return frozenset(all_reads() - attribute_reads(config.node))


def reads_in_used_methods(config: ConfigClass) -> set[str]:
    """Fields that a method or property of the class reads, where other code uses that method or property in turn."""
    methods = {n.name: set(attribute_reads(n)) for n in config.node.body if isinstance(n, Function)}
    used = {name for name in methods if name in reads_outside(config)}
    reads: set[str] = set()
    while used:
        name = used.pop()
        new = methods.pop(name)
        used |= new & set(methods)
        reads |= new
    return reads


def test_there_are_configurations() -> None:
    assert {"LlmConfig", "MolmoConfig", "TrainConfig"} <= {c.name for c in config_classes()}


def test_every_field_has_a_docstring() -> None:
    missing = [
        f"{config.module.at(node)}: {config.name}.{name}"
        for config in config_classes()
        for name, node, is_described in config.fields()
        if not is_described
    ]
    assert not missing, "fields without a docstring under them:\n" + "\n".join(missing)


def test_every_field_is_read() -> None:
    unread = []
    for config in config_classes():
        reads = reads_outside(config) | reads_in_used_methods(config)
        unread += [
            f"{config.module.at(n)}: {config.name}.{name}" for name, n, _ in config.fields() if name not in reads
        ]
    assert not unread, "fields that no code reads; delete them:\n" + "\n".join(unread)

"""One direction of imports, as docs/architecture.md draws it; no cycles; nothing imported that is not declared.

The rule holds for the rooms of `olmo`, and inside `olmo.train` for its rooms and the modules at its top.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from source_tree import ROOT, Import, imports_of, modules

Layers = tuple[tuple[tuple[str, ...], ...], ...]

LAYERS: Layers = (
    (("config", "exceptions", "io", "torch_util"),),
    (("tokenizer",),),
    (("nn",), ("preprocessing",), ("generation",), ("checkpoint",), ("quantization",), ("data",)),
    (("viz",),),
    (("models",),),
    (("engine",),),
    (("eval",),),
    (("train",),),
    (("serve",),),
    (("cli",),),
)
"""From below to above. Groups of one layer are siblings and never import one another; names of one group may."""

TRAIN_LAYERS: Layers = (
    (("task",),),
    (("first_weights",), ("parallel",), ("lora",), ("watch",), ("run_folder",)),
    (("optim",),),
    (("train_config",),),
    (("step", "evaluation", "stop_request", "trainer"), ("tasks",)),
    (("run",),),
    (("plan",),),
)
"""The same inside `olmo.train`, where modules at its top have a place of their own."""

LAYERS_OF: dict[str, Layers] = {"olmo": LAYERS, "olmo.train": TRAIN_LAYERS}
"""Packages whose rooms keep apart."""

OPTIONAL_DEPENDENCIES: dict[str, str] = {
    "accelerate": "offload",
    "av": "video",
    "datasets": "data",
    "fastapi": "serve",
    "fsspec": "remote",
    "llguidance": "serve",
    "lmms_eval": "lmms-eval",
    "matplotlib": "plots",
    "peft": "lora",
    "prometheus_client": "serve",
    "pyarrow": "data",
    "pydantic": "serve",
    "ray": "ray",
    "starlette": "serve",
    "tensorboard": "tensorboard",
    "torchao": "qlora",
    "uvicorn": "serve",
    "wandb": "wandb",
}
"""Third-party packages that a function may import, and the extra that installs each."""

NEVER_IMPORTED = {"transformers", "torchvision", "timm", "tensorflow", "torchaudio"}
"""Run-time imports that the project does without, whatever pyproject says."""

WRITTEN_OUT = "olmo.models.export.hub_code"
"""Code that is copied into exported folders for transformers to run, and that no module imports."""

DISTRIBUTION_OF = {"PIL": "pillow", "yaml": "pyyaml"}
"""Distribution of a package whose import name differs."""


def room(module: str, package: str) -> str:
    """First component of a module below a package, "" for the package itself."""
    return module.removeprefix(package).split(".")[1] if module != package else ""


def rooms(package: str) -> set[str]:
    return {room(name, package) for name in modules() if is_in(name, package)} - {""}


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def own_imports(package: str = "olmo") -> Iterable[tuple[str, Import]]:
    """Imports from one module of a package to another."""
    for name, module in modules().items():
        for found in imports_of(module):
            if is_in(name, package) and is_in(found.target, package):
                yield name, found


@pytest.mark.parametrize("package", LAYERS_OF)
def test_every_room_has_a_place(package: str) -> None:
    unknown = sorted(rooms(package) - {n for layer in LAYERS_OF[package] for group in layer for n in group})
    assert not unknown, f"rooms of {package} without a place in its layers (and in docs/architecture.md): {unknown}"


@pytest.mark.parametrize("package", LAYERS_OF)
def test_imports_point_downwards(package: str) -> None:
    layers = LAYERS_OF[package]
    place = {name: (i, j) for i, layer in enumerate(layers) for j, group in enumerate(layer) for name in group}
    wrong = []
    for name, found in own_imports(package):
        here, there = room(name, package), room(found.target, package)
        if here == there or (here == "" and there == "exceptions"):
            continue
        if there == "":
            continue  # the version
        if here == "":
            wrong.append(f"{found.place}: the __init__.py of {package} imports {found.target}")
            continue
        (layer, group), (other_layer, other_group) = place[here], place[there]
        if layer < other_layer:
            wrong.append(f"{found.place}: {here} imports {there}, which is above it")
        elif layer == other_layer and group != other_group:
            wrong.append(f"{found.place}: {here} imports its sibling {there}")
    assert not wrong, "\n".join(wrong)


def test_no_module_is_imported_in_a_function() -> None:
    wrong = []
    for module in modules().values():
        for found in imports_of(module):
            if found.is_in_function and found.target.split(".")[0] not in OPTIONAL_DEPENDENCIES:
                wrong.append(f"{found.place}: {found.target} is imported in a function; only optional packages may be")
    assert not wrong, "\n".join(wrong)


def test_no_cycles_between_modules() -> None:
    graph: dict[str, dict[str, str]] = {name: {} for name in modules()}
    for name, found in own_imports():
        if found.target in graph and found.target != name:
            graph[name].setdefault(found.target, found.place)
    cycle = find_cycle(graph)
    steps = [f"{graph[a][b]}: {a} imports {b}" for a, b in pairwise(cycle)]
    assert not cycle, "imports run in a circle:\n" + "\n".join(steps)


def find_cycle(graph: dict[str, dict[str, str]]) -> list[str]:
    """Nodes of one cycle, the first repeated at the end; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in graph[node]:
            if cycle := walk(following, [*path, node]):
                return cycle
        done.add(node)
        return []

    for start in graph:
        if cycle := walk(start, []):
            return cycle
    return []


def test_find_cycle_finds_one() -> None:
    assert find_cycle({"a": {"b": ""}, "b": {"c": ""}, "c": {"b": ""}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b": "", "c": ""}, "b": {"c": ""}, "c": {}}) == []


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\s<>=!~\[;]", d, maxsplit=1)[0].lower().replace("_", "-") for d in project["dependencies"]}
    wrong = []
    for module in modules().values():
        for found in imports_of(module):
            top = found.target.split(".")[0]
            if top == "olmo" or top in sys.stdlib_module_names or top in OPTIONAL_DEPENDENCIES:
                continue
            if is_in(module.name, WRITTEN_OUT) and top == "transformers":
                continue
            if top in NEVER_IMPORTED:
                wrong.append(f"{found.place}: {top} is never imported at run time")
            elif DISTRIBUTION_OF.get(top, top).lower().replace("_", "-") not in declared:
                wrong.append(f"{found.place}: {top} is not among the dependencies in pyproject.toml")
    assert not wrong, "\n".join(wrong)


def test_code_for_exported_folders_is_imported_by_nobody() -> None:
    wrong = [
        f"{found.place}: {found.target}"
        for name, found in own_imports()
        if is_in(found.target, WRITTEN_OUT) and not is_in(name, WRITTEN_OUT)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", LAYERS_OF)
def test_the_architecture_page_draws_these_layers(package: str) -> None:
    """The page shows the rooms that exist; those to come have their place here already."""
    layers, there = LAYERS_OF[package], rooms(package)
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    first = layers[0][0][0]
    drawn = re.search(rf"```text\n({first}\b.*?)```", text, re.DOTALL)
    assert drawn, f"docs/architecture.md has no block that begins with `{first}`, the lowest layer of {package}"
    groups = [[" ".join(n for n in group if n in there) for group in layer] for layer in layers]
    lines = [" | ".join(group for group in layer if group) for layer in groups]
    assert " ".join(drawn.group(1).split()) == " < ".join(line for line in lines if line)


@pytest.mark.parametrize(("package", "heading"), [("olmo", "## The rooms"), ("olmo.train", "## The rooms of training")])
def test_the_architecture_page_lists_the_rooms(package: str, heading: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    missing = sorted(r for r in rooms(package) if f"`{r}`" not in listed and f"`{r}/`" not in listed)
    assert not missing, f"docs/architecture.md does not say under {heading!r} what lives in {missing}"

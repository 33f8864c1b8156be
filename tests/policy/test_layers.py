"""One direction of imports, as docs/architecture.md draws it; no cycles; nothing imported that is not declared."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from itertools import pairwise

from source_tree import ROOT, Import, imports_of, modules

LAYERS: tuple[tuple[tuple[str, ...], ...], ...] = (
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

OPTIONAL_DEPENDENCIES: dict[str, str] = {
    "av": "video",
    "datasets": "data",
    "fsspec": "remote",
    "lmms_eval": "lmms-eval",
    "matplotlib": "plots",
    "peft": "lora",
    "tensorboard": "tensorboard",
    "torchao": "qlora",
    "wandb": "wandb",
}
"""Third-party packages that a function may import, and the extra that installs each."""

NEVER_IMPORTED = {"transformers", "torchvision", "timm", "tensorflow", "torchaudio"}
"""Run-time imports that the project does without, whatever pyproject says."""

DISTRIBUTION_OF = {"PIL": "pillow", "yaml": "pyyaml"}
"""Distribution of a package whose import name differs."""

PLACE = {name: (i, j) for i, layer in enumerate(LAYERS) for j, group in enumerate(layer) for name in group}


def room(module: str) -> str:
    """First component below `olmo`, "" for `olmo` itself."""
    return [*module.split("."), ""][1]


def own_imports() -> Iterable[tuple[str, Import]]:
    for name, module in modules().items():
        for found in imports_of(module):
            if found.target.split(".")[0] == "olmo":
                yield name, found


def test_every_room_has_a_place() -> None:
    unknown = sorted({room(name) for name in modules()} - set(PLACE) - {""})
    assert not unknown, f"rooms without a place in LAYERS (and in docs/architecture.md): {unknown}"


def test_imports_point_downwards() -> None:
    wrong = []
    for name, found in own_imports():
        here, there = room(name), room(found.target)
        if here == there or (here == "" and there == "exceptions"):
            continue
        if there == "":
            continue  # the version
        if here == "":
            wrong.append(f"{found.place}: olmo/__init__.py imports {found.target}")
            continue
        (layer, group), (other_layer, other_group) = PLACE[here], PLACE[there]
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
            if top in NEVER_IMPORTED:
                wrong.append(f"{found.place}: {top} is never imported at run time")
            elif DISTRIBUTION_OF.get(top, top).lower().replace("_", "-") not in declared:
                wrong.append(f"{found.place}: {top} is not among the dependencies in pyproject.toml")
    assert not wrong, "\n".join(wrong)


def test_the_architecture_page_draws_these_layers() -> None:
    """The page shows the rooms that exist; those to come have their place here already."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"```text\n(config exceptions.*?)```", text, re.DOTALL)
    assert drawn, "docs/architecture.md has no block that begins with `config exceptions`"
    there = {room(name) for name in modules()}
    groups = [[" ".join(n for n in group if n in there) for group in layer] for layer in LAYERS]
    layers = [" | ".join(group for group in layer if group) for layer in groups]
    assert " ".join(drawn.group(1).split()) == " < ".join(layer for layer in layers if layer)


def test_the_architecture_page_lists_the_rooms() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = text.partition("## The rooms")[2].partition("\n## ")[0]
    missing = sorted(
        f"{r}" for r in {room(name) for name in modules()} - {""} if f"`{r}`" not in rooms and f"`{r}/`" not in rooms
    )
    assert not missing, f"docs/architecture.md does not say what lives in {missing}"

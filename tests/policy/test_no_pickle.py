"""No file of a user can run code: no pickles but in the one converter, no code from checkpoints, no eval."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from source_tree import Module, imports_of, modules

THE_CONVERTER = "olmo.models.molmo.native_release"
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"}
CODE_FROM_TEXT = {"eval", "exec", "compile", "__import__"}
UNSAFE_CALLS = {
    "torch.load": "opens pickles",
    "torch.save": "writes pickles",
    "torch.jit.load": "runs code from a file",
    "torch.hub.load": "runs code from the network",
    "torch.package.PackageImporter": "runs code from a file",
    "yaml.load": "can build any object; use yaml.safe_load",
    "yaml.unsafe_load": "can build any object",
    "yaml.full_load": "can build objects",
    "runpy.run_path": "runs code from a file",
    "importlib.util.spec_from_file_location": "runs code from a file",
}


def name_of(node: ast.AST) -> str:
    """`torch.load` for the expression that is written so, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := name_of(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def calls_of(module: Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (name := name_of(node.func)):
            yield name, node


def keyword(call: ast.Call, name: str) -> object:
    for item in call.keywords:
        if item.arg == name and isinstance(item.value, ast.Constant):
            return item.value.value
    return None


def test_only_the_converter_knows_pickles() -> None:
    wrong = [
        f"{found.place}: {found.target}"
        for module in modules().values()
        if module.name != THE_CONVERTER
        for found in imports_of(module)
        if found.target.split(".")[0] in PICKLES
    ]
    assert not wrong, "\n".join(wrong)


def test_no_call_runs_what_a_file_says() -> None:
    wrong = []
    for module in modules().values():
        for name, call in calls_of(module):
            if name == "torch.load" and module.name == THE_CONVERTER:
                if keyword(call, "weights_only") is not True:
                    wrong.append(f"{module.at(call)}: torch.load without weights_only=True")
            elif name in UNSAFE_CALLS:
                wrong.append(f"{module.at(call)}: {name} {UNSAFE_CALLS[name]}")
            elif name in CODE_FROM_TEXT:
                wrong.append(f"{module.at(call)}: {name} runs text as code")
            elif keyword(call, "allow_pickle") or keyword(call, "trust_remote_code"):
                wrong.append(f"{module.at(call)}: {name} is allowed to run code")
    assert not wrong, "\n".join(wrong)


def test_the_converter_is_where_we_think() -> None:
    loads = [call for name, call in calls_of(modules()[THE_CONVERTER]) if name == "torch.load"]
    assert loads, "the exception in this file is not needed any more; remove it"


def test_remote_code_is_ignored_not_passed_on() -> None:
    """`trust_remote_code` may be a parameter, for compatibility; its value may go nowhere."""
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and node.id == "trust_remote_code" and isinstance(node.ctx, ast.Load):
                wrong.append(module.at(node))
    assert not wrong, "trust_remote_code is read:\n" + "\n".join(wrong)

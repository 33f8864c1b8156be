"""Pages and tables that a script makes are those it would make now."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from source_tree import ROOT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_api_pages_are_up_to_date() -> None:
    stale = script("build_api_docs").stale_pages()
    assert not stale, f"run: python scripts/build_api_docs.py (stale: {', '.join(stale)})"


def test_tables_are_up_to_date() -> None:
    stale = script("build_doc_tables").stale_pages()
    assert not stale, f"run: python scripts/build_doc_tables.py (stale: {', '.join(stale)})"

"""The docs site: every page is in its navigation, its links are those of the repository, and it builds strictly."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from doc_pages import pages, written_pages
from source_tree import ROOT

_FETCHED = re.compile(r"""<(?:script|img|link|iframe)[^>]*?(?:src|href)=["']?https?://""")


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(nav: Any) -> list[str]:
    """Pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav
    return [page for value in values for page in entries(value)]


def test_every_page_is_in_the_navigation_once() -> None:
    named = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    written = [*written_pages(), *(ROOT / "docs" / "api").glob("*.md")]
    there = [str(path.relative_to(ROOT / "docs")) for path in written]
    there += [page for page in site().SITE_OF_FILE.values() if page.endswith(".md")]
    assert sorted(named) == sorted(there)


def test_pages_that_the_product_documents_link_to() -> None:
    names = ["vision_backbone", "llm_components", "training_guide"]
    names += [f"api/{name}" for name in ("training", "preprocessing", "datasets", "models")]
    assert not [name for name in names if not (ROOT / "docs" / f"{name}.md").is_file()]


def test_every_guide_is_listed() -> None:
    text = (ROOT / "docs" / "guides.md").read_text(encoding="utf-8")
    guides = sorted(path.name for path in (ROOT / "docs" / "guides").glob("*.md"))
    assert guides and not [name for name in guides if f"(guides/{name})" not in text]


@pytest.mark.parametrize(
    ("target", "page", "expected"),
    [
        ("docs/data.md", "index.md", "data.md"),
        ("CONTRIBUTING.md", "index.md", "contributing.md"),
        ("LICENSE", "index.md", "LICENSE.txt"),
        ("../README.md", "quickstart.md", "index.md"),
        ("../../README.md", "guides/installing.md", "../index.md"),
        ("../serving.md", "guides/containers.md", "../serving.md"),
        ("pointing.md", "guides/counting.md", "pointing.md"),
        ("api/models.md", "models.md", "api/models.md"),
        ("https://x.org/README.md", "models.md", "https://x.org/README.md"),
    ],
)
def test_links_of_the_repository_are_links_of_the_site(target: str, page: str, expected: str) -> None:
    assert site().site_link(target, page) == expected


def test_comments_go_and_code_stays() -> None:
    text = (
        "<!-- setup:\nx = 1\n\n-->\nSee [this](../README.md#two).\n\n```text\n[a](../README.md) <!-- b -->\n```\nEnd.\n"
    )
    shown = site().site_text(text, "quickstart.md")
    assert shown == "See [this](index.md#two).\n\n```text\n[a](../README.md) <!-- b -->\n```\nEnd.\n"


def test_lists_stand_apart() -> None:
    """On the site a list directly below a paragraph is more of the paragraph."""
    wrong = []
    for page in pages():
        lines = page.prose().splitlines()
        for above, line in pairwise(lines):
            if line.startswith("- ") and above.strip() and not above.startswith(("- ", "  ")):
                wrong.append(f"{page.name}: {line[:60]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs what the site needs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    first = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="guides/pointing.html"' in first and "<!-- table" not in first
    for page in tmp_path.rglob("*.html"):
        assert not _FETCHED.search(page.read_text(encoding="utf-8")), f"{page} fetches something from another place"

"""What the docs site needs beyond the pages in `docs`; MkDocs calls these functions (`hooks` in mkdocs.yml).

The pages are written for a reader of the repository: they link to `../README.md`, and their comments steer the tests.
On the site README is the first page, and comments are left out.

    mkdocs build --strict
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SITE_OF_FILE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "LICENSE": "LICENSE.txt",
    "NOTICE": "NOTICE.txt",
}
"""Files outside `docs` that the site shows, and where."""

_FILE_OF_SITE = {page: name for name, page in SITE_OF_FILE.items()}
_FENCED = re.compile(r"(^```.*?^```[ ]*$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_ADDRESS = re.compile(r"[a-z]+:", re.IGNORECASE)


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside `docs`."""
    file_class = importlib.import_module("mkdocs.structure.files").File  # only a build needs MkDocs
    for name, page in SITE_OF_FILE.items():
        files.append(file_class.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page with its links as the site needs them and without comments."""
    return site_text(markdown, page.file.src_uri)


def site_text(text: str, page: str) -> str:
    """What the site shows of a page.

    Args:
        text: Markdown as it stands in the repository.
        page: place on the site, such as `guides/pointing.md`.
    """
    return "".join(part if part.startswith("```") else _prose(part, page) for part in _FENCED.split(text))


def _prose(text: str, page: str) -> str:
    return _LINK.sub(lambda m: f"{m[1]}{site_link(m[2], page)}{m[3] or ''}{m[4]}", _COMMENT.sub("", text))


def site_link(target: str, page: str) -> str:
    """A relative link of the repository as one of the site; addresses stay as they are.

    Args:
        target: the link without its anchor.
        page: place of the page on the site.
    """
    if _ADDRESS.match(target):
        return target
    source = _FILE_OF_SITE.get(page, f"docs/{page}")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    there = SITE_OF_FILE.get(named, named.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(page) or ".")

"""README and docs as data: fenced blocks with the comments that stand above them, links and tables.

Comments that mean something, all invisible to a reader:

    <!-- setup: CODE -->           Python that runs before the page's first snippet
    <!-- needs: bundled model -->  the whole page is skipped, with a visible reason, where that is not installed
    <!-- not run: REASON -->       above a block: it is shown only
    <!-- run -->                   above a bash block: its `molmo` lines are executed, not only parsed
    <!-- output -->                above a text block: it is what the Python snippet before it prints, to the letter
    <!-- printed -->               the same of the one command of a bash block that is run
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from source_tree import ROOT

_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_FENCE = re.compile(r"^```(\w*)[ ]*$")
KINDS = ("setup", "needs", "not run", "run", "output", "printed")


@dataclass(frozen=True)
class Note:
    """A comment that means something."""

    kind: str
    text: str


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands after the fence.
        code: content.
        line: line of the file that the content begins at, from 1.
        notes: comments directly above.
    """

    language: str
    code: str
    line: int
    notes: tuple[Note, ...] = ()

    def note(self, kind: str) -> Note | None:
        return next((n for n in self.notes if n.kind == kind), None)


@dataclass
class Page:
    """One Markdown file."""

    path: Path
    text: str
    blocks: list[Block] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def setup(self) -> str:
        return "\n".join(n.text for n in self.notes if n.kind == "setup")

    @property
    def needs(self) -> set[str]:
        return {n.text for n in self.notes if n.kind == "needs"}

    def prose(self) -> str:
        """The text without fenced blocks and comments."""
        return re.sub(r"^```.*?^```[ ]*$", "", _COMMENT.sub("", self.text), flags=re.DOTALL | re.MULTILINE)


def read_page(path: Path) -> Page:
    """Parse a page; an unclosed fence is an error."""
    page = Page(path, path.read_text(encoding="utf-8"))
    lines = page.text.splitlines()
    above: list[Note] = []
    i = 0
    while i < len(lines):
        if lines[i].lstrip().startswith("<!--"):
            end = next(j for j in range(i, len(lines)) if "-->" in lines[j])
            note = _note("\n".join(lines[i : end + 1]))
            if note:
                above.append(note)
                page.notes.append(note)
            i = end + 1
        elif fence := _FENCE.match(lines[i]):
            end = next((j for j in range(i + 1, len(lines)) if lines[j].rstrip() == "```"), None)
            assert end is not None, f"{page.name}:{i + 1}: the block is never closed"
            page.blocks.append(Block(fence.group(1), "\n".join(lines[i + 1 : end]) + "\n", i + 2, tuple(above)))
            above, i = [], end + 1
        else:
            above = above if not lines[i].strip() else []
            i += 1
    return page


def _note(comment: str) -> Note | None:
    found = _COMMENT.match(comment.strip())
    text = found.group(1) if found else ""
    kind, _, rest = text.partition(":")
    if kind.strip() not in KINDS:
        return None
    return Note(kind.strip(), textwrap.dedent(rest).strip())


def pages() -> list[Page]:
    """README, CONTRIBUTING and everything in docs but the pages made from docstrings."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written_pages()]
    return [read_page(p) for p in paths if p.is_file()]


def written_pages() -> list[Path]:
    """Pages of docs that no script makes: those at its top, and the guides."""
    docs = ROOT / "docs"
    return [*sorted(docs.glob("*.md")), *sorted((docs / "guides").glob("*.md"))]

"""Write the API pages in docs/api from the docstrings of `olmo`.

One page for each room of the package, plus one for what stands at its top. The source is parsed, not imported, so this
needs nothing but Python. What is written depends on the source alone: no dates, no machine.

    python scripts/build_api_docs.py            write the pages
    python scripts/build_api_docs.py --check    write nothing; exit with 1 and name the pages that are out of date
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "olmo"
TARGET = ROOT / "docs" / "api"

PAGE_OF_ROOM = {"": "foundation", "data": "datasets", "train": "training"}
"""Name of a room's page where it is not the name of the room; the product documents link to these."""

WITHOUT_PAGE = {"cli"}
"""Rooms that are no library."""

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source", "Note", "Example")
_SECTION = re.compile(rf"({'|'.join(SECTIONS)}):\s*(.*)")
_ENTRY = re.compile(r"(\*{0,2}[\w.]+)(?: \([^)]*\))?:\s+(.*)")
_DEFAULT = re.compile(r"^(\w+: [^=]+)=(.+)$")
_NOTE = "<!-- Made by scripts/build_api_docs.py from the docstrings. Do not edit. -->"
_WIDTH = 100

Function = ast.FunctionDef | ast.AsyncFunctionDef


def build_pages() -> dict[str, str]:
    """Content of every page by file name."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        rooms.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    pages = {}
    for room, paths in sorted(rooms.items()):
        modules = [text for path in paths if (text := module_text(path))] if room not in WITHOUT_PAGE else []
        if modules:
            name = PAGE_OF_ROOM.get(room, room)
            pages[f"{name}.md"] = "\n\n".join([f"# {name.capitalize()}", _NOTE, room_text(room), *modules]) + "\n"
    pages["README.md"] = index_text(sorted(pages))
    return pages


def index_text(names: list[str]) -> str:
    """The page that lists the others."""
    rows = "\n".join(f"- [{name.removesuffix('.md')}]({name})" for name in names)
    return f"# API\n\n{_NOTE}\n\nOne page for each room of the package, made from the docstrings.\n\n{rows}\n"


def room_text(room: str) -> str:
    """What a room is for: the docstring of its package."""
    if not room:
        return "What stands at the top of the package and everything else builds on."
    return docstring_text(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))


def module_text(path: Path) -> str:
    """Heading, docstring and public names of a module; empty where it has none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    items = [definition_text(*item) for item in described_items(tree.body)]
    if path.name == "__init__.py" or not items:
        return ""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return "\n\n".join([f"## `{name}`", docstring_text(tree), *items])


def described_items(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Public classes, functions and the constants and fields with a docstring under them, with that docstring."""
    for here, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(here, Function | ast.ClassDef):
            if not here.name.startswith("_"):
                yield here, ""
        elif isinstance(here, ast.Assign | ast.AnnAssign):
            target = here.targets[0] if isinstance(here, ast.Assign) else here.target
            if isinstance(target, ast.Name) and not target.id.startswith("_") and (text := string_of(following)):
                yield here, text


def definition_text(node: ast.stmt, description: str) -> str:
    """A public name of a module."""
    if isinstance(node, ast.ClassDef):
        return class_text(node)
    if isinstance(node, Function):
        return "\n\n".join([f"### {node.name}", fence(signature(node)), docstring_text(node)])
    assert isinstance(node, ast.Assign | ast.AnnAssign), "described_items yields nothing else"
    return f"### {target_name(node)}\n\n{description}"


def class_text(node: ast.ClassDef) -> str:
    """A class: its docstring, its fields or choices, its constructor where that is described, its public methods."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    parts = [f"### {node.name}", fence(f"class {node.name}({bases})" if bases else f"class {node.name}")]
    parts.append(docstring_text(node))
    if fields := [
        field_text(item, text) for item, text in described_items(node.body) if not isinstance(item, Function)
    ]:
        parts.append("\n".join(["Fields:", "", *fields]))
    if choices := choices_of(node):
        parts.append(f"Choices: {', '.join(choices)}.")
    for item in node.body:
        if isinstance(item, Function) and is_shown(item):
            parts += [f"#### {node.name}.{item.name}", fence(signature(item)), docstring_text(item)]
    return "\n\n".join(part for part in parts if part)


def is_shown(function: Function) -> bool:
    """Public methods, a described constructor and a described call; setters are shown where the value is read."""
    is_setter = any(isinstance(d, ast.Attribute) and d.attr in ("setter", "deleter") for d in function.decorator_list)
    is_special = function.name in ("__init__", "__call__") and ast.get_docstring(function) is not None
    return not is_setter and (is_special or not function.name.startswith("_"))


def field_text(node: ast.stmt, description: str) -> str:
    """A field as a list item: name, type, default, meaning."""
    assert isinstance(node, ast.Assign | ast.AnnAssign), "functions are left out before"
    kind = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
    default = f" = {ast.unparse(node.value)}" if node.value is not None and len(ast.unparse(node.value)) < 60 else ""
    return f"- `{target_name(node)}{kind}{default}` {' '.join(description.split())}"


def choices_of(node: ast.ClassDef) -> list[str]:
    """Values of an enumeration of strings."""
    if not any(ast.unparse(base).endswith("Enum") for base in node.bases):
        return []
    values = [item.value for item in node.body if isinstance(item, ast.Assign)]
    return [f"`{v.value}`" for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]


def signature(node: Function) -> str:
    """`name(arguments) -> result`, on one line or one argument a line."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kinds = {ast.unparse(d) for d in node.decorator_list} & {"property", "classmethod", "staticmethod"}
    mark = "".join(f"@{kind}\n" for kind in sorted(kinds))
    arguments = [_DEFAULT.sub(r"\1 = \2", a) for a in split_arguments(ast.unparse(node.args))]
    line = f"{node.name}({', '.join(arguments)}){result}"
    if len(line) <= _WIDTH:
        return mark + line
    return mark + f"{node.name}(\n    " + ",\n    ".join(arguments) + f",\n){result}"


def split_arguments(text: str) -> list[str]:
    """Arguments of a signature, cut at the commas outside brackets and strings."""
    parts, depth, start, quote = [], 0, 0, ""
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def docstring_text(node: ast.Module | ast.ClassDef | Function) -> str:
    """A Google-style docstring as Markdown."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in (ast.get_docstring(node) or "").splitlines():
        found = _SECTION.fullmatch(line)
        if found:
            blocks.append((found.group(1), [found.group(2)] if found.group(2) else []))
        else:
            blocks[-1][1].append(line)
    parts = []
    for title, lines in blocks:
        text = textwrap.dedent("\n".join(lines)).strip("\n")
        if title in ("Args", "Attributes", "Raises"):
            parts.append("\n".join([f"{title}:", "", *entries(text)]))
        elif title:
            parts.append(f"{title}: {text}")
        elif text:
            parts.append(text)
    return "\n\n".join(parts)


def entries(text: str) -> list[str]:
    """`name: meaning` paragraphs as list items."""
    items: list[str] = []
    for line in text.splitlines():
        found = _ENTRY.match(line)
        if found:
            items.append(f"- `{found.group(1)}`: {found.group(2)}")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(f"- {line.strip()}")
    return items


def string_of(node: ast.stmt) -> str:
    """The text of a statement that is a string, else nothing."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def target_name(node: ast.Assign | ast.AnnAssign) -> str:
    """Name that an assignment gives."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return ast.unparse(target)


def fence(code: str) -> str:
    """A block of Python."""
    return f"```python\n{code}\n```"


def stale_pages() -> list[str]:
    """Pages whose file is missing, superfluous or different."""
    pages = build_pages()
    there = {p.name: p.read_text(encoding="utf-8") for p in TARGET.glob("*.md")}
    return sorted(name for name in pages.keys() | there.keys() if pages.get(name) != there.get(name))


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a page is out of date")
    if parser.parse_args().check:
        stale = stale_pages()
        for name in stale:
            print(f"docs/api/{name} is out of date; run: python scripts/build_api_docs.py")
        return 1 if stale else 0
    pages = build_pages()
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in TARGET.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    print(f"{len(pages)} pages in docs/api")
    return 0


if __name__ == "__main__":
    sys.exit(main())

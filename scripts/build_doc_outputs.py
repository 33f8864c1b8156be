"""Write what the snippets of README and docs print under them, after a change that is meant to change it.

The blocks below `<!-- output -->` and `<!-- printed -->` are filled; `tests/policy/test_snippets.py` holds them to the
letter. Look at the difference before you keep it.

    python scripts/build_doc_outputs.py                          all pages
    python scripts/build_doc_outputs.py docs/guides/counting.md  these
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "policy"))

from doc_pages import Page, pages  # noqa: E402  a test reads the pages in the same way
from test_snippets import command_lines, run  # noqa: E402

from olmo.cli.main import app  # noqa: E402


def outputs(page: Page) -> dict[int, str]:
    """What belongs into each block that shows an output, by the line its content begins at."""
    found: dict[int, str] = {}
    namespace: dict[str, object] = {"__name__": "__main__"}
    run(page.setup, namespace, page.name, 1)
    printed = ""
    for block, following in pairwise([*page.blocks, None]):
        if block.language == "python" and not block.note("not run"):
            printed = run(block.code, namespace, page.name, block.line)
        elif block.note("output"):
            found[block.line] = printed
        elif block.note("run") and following is not None and following.note("printed"):
            ((_, command),) = command_lines(block)
            found[following.line] = CliRunner().invoke(app, shlex.split(command)[1:]).stdout
    return found


def filled(page: Page) -> str:
    """The page with its outputs made anew."""
    lines = page.text.splitlines(keepends=True)
    shown = {block.line: block for block in page.blocks}
    for line, text in sorted(outputs(page).items(), reverse=True):
        n_lines = len(shown[line].code.rstrip("\n").splitlines())
        lines[line - 1 : line - 1 + n_lines] = text.splitlines(keepends=True)
    return "".join(lines)


def main() -> int:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="pages to write; all without")
    wanted = parser.parse_args().pages
    known = {page.name: page for page in pages()}
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no such page: {', '.join(unknown)}")
    for name in wanted or known:
        with tempfile.TemporaryDirectory() as folder:  # looks like the project to a reader's commands
            for needed in ("examples", "configs"):
                shutil.copytree(ROOT / needed, Path(folder) / needed)
            os.chdir(folder)
            text = filled(known[name])
            os.chdir(ROOT)
        if text != known[name].text:
            known[name].path.write_text(text, encoding="utf-8")
            print(f"changed: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

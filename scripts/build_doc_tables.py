"""Fill the tables in README and docs whose numbers come from the code or from a measurement, so that none is typed.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Sizes are counted on models built without
memory; measured figures come from `benchmarks/results`, the training of molmo-nano from the recipes in `configs/`, the
caption of the README's picture from the picture.

    python scripts/build_doc_tables.py            write the tables
    python scripts/build_doc_tables.py --check    write nothing; exit with 1 and name the pages that are out of date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # also where a test loads this file by its path

from doc_tables.he_molmo import he_scorers, he_tasks  # noqa: E402
from doc_tables.models import choosing_table, compared, models_table  # noqa: E402
from doc_tables.nano import clip_results, nano_results, nano_sizes, nano_training  # noqa: E402
from doc_tables.speed import decode_options, served  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "annotated.png"

_TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def picture() -> str:
    """The README's picture with the caption that it carries."""
    with Image.open(PICTURE) as image:
        caption = str(image.info.get("Caption", ""))
    return f"![{caption}]({PICTURE.relative_to(ROOT).as_posix()})\n\n{caption}"


TABLES: dict[str, Callable[[], str]] = {
    "picture": picture,
    "models": models_table,
    "choosing": choosing_table,
    "compared": compared,
    "nano sizes": nano_sizes,
    "nano training": nano_training,
    "nano results": nano_results,
    "clip results": clip_results,
    "he tasks": he_tasks,
    "he scorers": he_scorers,
    "served": served,
    "decode options": decode_options,
}


def filled(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: a table of a name that nobody makes.
    """
    return _TABLE.sub(lambda m: f"{m.group(1)}\n{TABLES[m.group(2)]()}\n\n{m.group(3)}", text)


def pages() -> list[Path]:
    """Pages that may hold tables."""
    docs = ROOT / "docs"
    return [ROOT / "README.md", *sorted(docs.glob("*.md")), *sorted((docs / "guides").glob("*.md"))]


def stale_pages() -> list[str]:
    """Pages that would change."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    return [str(path.relative_to(ROOT)) for path, text in texts.items() if filled(text) != text]


def main() -> int:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a page is out of date")
    stale = stale_pages()
    if parser.parse_args().check:
        for name in stale:
            print(f"{name} is out of date; run: python scripts/build_doc_tables.py")
        return 1 if stale else 0
    for name in stale:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"changed: {', '.join(stale) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

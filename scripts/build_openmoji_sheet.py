"""Build a sprite sheet of OpenMoji, the art that the evaluation of molmo-nano uses and training never sees.

OpenMoji is CC-BY-SA-4.0 and is not part of the package: get it with `npm pack openmoji`, unpack it, and run

    python scripts/build_openmoji_sheet.py package openmoji.png
    python benchmarks/nano.py --art openmoji.png

Needs `resvg_py` to draw SVG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from build_scenes_assets import draw_svg, write_sheet
from PIL import Image

from olmo.data.scenes.art import concepts


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="unpacked openmoji package folder")
    parser.add_argument("out", type=Path, help="sheet to write, PNG")
    args = parser.parse_args()
    write_sheet([openmoji(args.package, concept.code_point) for concept in concepts()], args.out)


def openmoji(package: Path, code: str) -> Image.Image:
    """OpenMoji's colour picture of a code point, RGBA."""
    folder = package / "color" / "svg"
    found = [path for path in (folder / f"{code}.svg", folder / f"{code}-FE0F.svg") if path.is_file()]
    if not found:
        raise SystemExit(f"no {code}.svg in {folder}; is this the unpacked openmoji package?")
    return draw_svg(found[0].read_text("utf-8"))


if __name__ == "__main__":
    main()

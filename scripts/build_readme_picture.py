"""Draw the README's picture: the bundled model points at things in the demo picture.

    python scripts/build_readme_picture.py            ask the bundled model
    python scripts/build_readme_picture.py --truth    draw the true points instead, where there is no model yet

The caption travels inside the PNG, and `build_doc_tables.py` takes it from there, so it says which of the two it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, PngImagePlugin

from olmo.data.scenes import ScenesConfig, make_scene
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.models.molmo.molmo import Molmo
from olmo.preprocessing.points import Point, parse
from olmo.viz.points import draw

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "olmo" / "cli" / "assets"
TARGET = ROOT / "docs" / "images" / "annotated.png"


def model_points(picture: Image.Image, question: str) -> list[Point]:
    """Points in the bundled model's answer."""
    model = Molmo.from_pretrained(bundled_model_folder())
    inputs = model.config.build_preprocessor(for_inference=True)({"image": picture, "prompt": question})
    return parse(model.generate(**inputs).text[0])


def true_points(seed: int, name: str, side_px: int) -> list[Point]:
    """Where the things called `name` are in the scene of `seed`."""
    scene = make_scene(seed, ScenesConfig(image_size=side_px))
    return [Point(*thing.point, name) for thing in scene.of(name)]


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--truth", action="store_true", help="draw the true points, not the model's")
    has_truth = parser.parse_args().truth
    demo = json.loads((ASSETS / "demo.json").read_text(encoding="utf-8"))
    question = demo["questions"][-1]
    with Image.open(ASSETS / "demo.png") as opened:
        picture = opened.convert("RGB")
    if has_truth:
        most = max(demo["counts"], key=lambda name: demo["counts"][name])
        found, caption = true_points(demo["seed"], most, picture.width), f'The true points for "{question}"'
    else:
        found, caption = model_points(picture, question), f'{BUNDLED_MODEL}\'s answer to "{question}"'
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Caption", caption)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    draw(picture, found).save(TARGET, optimize=True, pnginfo=notes)
    print(f"{TARGET.relative_to(ROOT)}: {caption}, {len(found)} point(s)")


if __name__ == "__main__":
    main()

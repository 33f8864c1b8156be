"""Draw the pictures that ship with the project: the one of `molmo demo` and the one in `examples/pictures`.

Both come from seeds of the evaluation range, which no training scene has. Run it again after changing a seed:

    python scripts/build_demo_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

from olmo.data.scenes import ScenesConfig, make_scene
from olmo.data.scenes.art import concepts_by_name

ROOT = Path(__file__).resolve().parent.parent
DEMO_SEED, EXAMPLE_SEED = 2_000_001_525, 2_000_000_614
SIDE_PX = 504


def main() -> None:
    """Write both pictures, and the questions of the demo with their true answers."""
    config = ScenesConfig(image_size=SIDE_PX)
    assets = ROOT / "olmo" / "cli" / "assets"
    demo, example = make_scene(DEMO_SEED, config), make_scene(EXAMPLE_SEED, config)
    demo.image.save(assets / "demo.png", optimize=True)
    example.image.save(ROOT / "examples" / "pictures" / "scene.png", optimize=True)
    counts = demo.counts()
    most = max(counts, key=lambda name: counts[name])
    things = concepts_by_name()[most].plural
    questions = ["What things are there?", f"How many {things} are there?", f"Point to the {things}."]
    content = {"seed": DEMO_SEED, "counts": counts, "word": demo.word, "questions": questions}
    (assets / "demo.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Build the sprite sheet of `olmo.data.scenes` from two unpacked npm packages.

Reads `package/emoji.json` and `package/img/google/64/*.png` of `emoji-datasource-google`, and the English names of
`cldr-annotations-full` (to check that each concept is what its code point is called). Writes `sprites.png` and
`sprites.json`. Run it only to change the list of concepts; the built files are part of the package.

    python scripts/build_scenes_assets.py EMOJI_PACKAGE_FOLDER CLDR_PACKAGE_FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

SPRITE_PX = 64
COLUMNS = 7
# concept, plural, code point, English CLDR name. Chosen for one plain countable word, a compact outline and a colour
# or shape that sets the concept apart from the other 27.
CONCEPTS = [
    ("apple", "apples", "1F34E", "red apple"),
    ("ball", "balls", "26BD", "soccer ball"),
    ("bird", "birds", "1F426", "bird"),
    ("boat", "boats", "26F5", "sailboat"),
    ("book", "books", "1F4D8", "blue book"),
    ("bus", "buses", "1F68C", "bus"),
    ("butterfly", "butterflies", "1F98B", "butterfly"),
    ("car", "cars", "1F697", "automobile"),
    ("carrot", "carrots", "1F955", "carrot"),
    ("cat", "cats", "1F431", "cat face"),
    ("cookie", "cookies", "1F36A", "cookie"),
    ("crab", "crabs", "1F980", "crab"),
    ("dog", "dogs", "1F436", "dog face"),
    ("fish", "fish", "1F420", "tropical fish"),
    ("flower", "flowers", "1F33B", "sunflower"),
    ("frog", "frogs", "1F438", "frog"),
    ("hat", "hats", "1F3A9", "top hat"),
    ("heart", "hearts", "2764", "red heart"),
    ("house", "houses", "1F3E0", "house"),
    ("key", "keys", "1F511", "key"),
    ("mushroom", "mushrooms", "1F344", "mushroom"),
    ("pear", "pears", "1F350", "pear"),
    ("penguin", "penguins", "1F427", "penguin"),
    ("pig", "pigs", "1F437", "pig face"),
    ("rabbit", "rabbits", "1F430", "rabbit face"),
    ("star", "stars", "2B50", "star"),
    ("tree", "trees", "1F333", "deciduous tree"),
    ("umbrella", "umbrellas", "2602", "umbrella"),
]


def main() -> None:
    """Write the sheet and its index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("emoji", type=Path, help="unpacked emoji-datasource-google package folder")
    parser.add_argument("cldr", type=Path, help="unpacked cldr-annotations-full package folder")
    parser.add_argument("--out", type=Path, default=Path("olmo/data/scenes/assets"))
    args = parser.parse_args()

    emoji = json.loads((args.emoji / "emoji.json").read_text("utf-8"))
    by_code = {e["unified"].removesuffix("-FE0F"): e for e in emoji}
    names = json.loads((args.cldr / "annotations/en/annotations.json").read_text("utf-8"))["annotations"]["annotations"]
    rows = -(-len(CONCEPTS) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE_PX, rows * SPRITE_PX))
    index = []
    for i, (concept, plural, code, cldr_name) in enumerate(CONCEPTS):
        found = names[chr(int(code, 16))]["tts"][0]
        if found != cldr_name:
            raise SystemExit(f"{code} is called {found!r} in CLDR, expected {cldr_name!r}")
        x, y = i % COLUMNS * SPRITE_PX, i // COLUMNS * SPRITE_PX
        with Image.open(args.emoji / "img/google/64" / by_code[code]["image"]) as sprite:
            sheet.paste(sprite.convert("RGBA"), (x, y))
        index.append({"concept": concept, "plural": plural, "code_point": code, "x": x, "y": y})
    args.out.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out / "sprites.png", optimize=True)
    text = json.dumps({"sprite_px": SPRITE_PX, "sprites": index}, indent=1) + "\n"
    (args.out / "sprites.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Build what `olmo.data.scenes` draws with: sprite sheets in two styles of art, and a sheet of photographs.

Reads unpacked packages: `emoji-datasource-google` (npm; Noto Emoji, 64 px PNG), `@iconify-json/fluent-emoji-flat` (npm;
Fluent Emoji, SVG), `cldr-annotations-full` (npm; to check that each concept is what its code point is called) and the
folder `skimage/data` of the wheel of scikit-image (photographs). Needs `resvg_py` to draw SVG. Run it only to change
the list of concepts; the built files are part of the package.

    python scripts/build_scenes_assets.py EMOJI FLUENT CLDR PHOTOS
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import resvg_py
from PIL import Image

SPRITE_PX = 64
COLUMNS = 12
PHOTO_PX = 288
# Photographs in the public domain or under CC0 that show nothing the concepts name. scikit-image says of each in
# `skimage/data/_fetchers.py` where it comes from.
PHOTOS = ("brick.png", "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
          "ihc.png", "retina.jpg")  # fmt: skip
# The 28 concepts that the first nano learned. Chosen for one plain countable word, a compact outline and a colour or
# shape that sets each apart from the others.
BASIC = {
    "apple", "ball", "bird", "boat", "book", "bus", "butterfly", "car", "carrot", "cat", "cookie", "crab", "dog",
    "fish", "flower", "frog", "hat", "heart", "house", "key", "mushroom", "pear", "penguin", "pig", "rabbit",
    "star", "tree", "umbrella",
}  # fmt: skip
# concept, plural, code point, English CLDR name; alphabetical. Each is drawn in Noto, Fluent and OpenMoji.
CONCEPTS = [
    ("airplane", "airplanes", "2708", "airplane"),
    ("anchor", "anchors", "2693", "anchor"),
    ("apple", "apples", "1F34E", "red apple"),
    ("axe", "axes", "1FA93", "axe"),
    ("backpack", "backpacks", "1F392", "backpack"),
    ("ball", "balls", "26BD", "soccer ball"),
    ("balloon", "balloons", "1F388", "balloon"),
    ("banana", "bananas", "1F34C", "banana"),
    ("basket", "baskets", "1F9FA", "basket"),
    ("bat", "bats", "1F987", "bat"),
    ("bear", "bears", "1F43B", "bear"),
    ("bed", "beds", "1F6CF", "bed"),
    ("bee", "bees", "1F41D", "honeybee"),
    ("bell", "bells", "1F514", "bell"),
    ("bicycle", "bicycles", "1F6B2", "bicycle"),
    ("bird", "birds", "1F426", "bird"),
    ("boat", "boats", "26F5", "sailboat"),
    ("bone", "bones", "1F9B4", "bone"),
    ("book", "books", "1F4D8", "blue book"),
    ("bread", "breads", "1F35E", "bread"),
    ("broccoli", "broccoli", "1F966", "broccoli"),
    ("broom", "brooms", "1F9F9", "broom"),
    ("bucket", "buckets", "1FAA3", "bucket"),
    ("bus", "buses", "1F68C", "bus"),
    ("butterfly", "butterflies", "1F98B", "butterfly"),
    ("cactus", "cactuses", "1F335", "cactus"),
    ("camel", "camels", "1F42A", "camel"),
    ("camera", "cameras", "1F4F7", "camera"),
    ("candle", "candles", "1F56F", "candle"),
    ("car", "cars", "1F697", "automobile"),
    ("carrot", "carrots", "1F955", "carrot"),
    ("cat", "cats", "1F431", "cat face"),
    ("chair", "chairs", "1FA91", "chair"),
    ("cheese", "cheeses", "1F9C0", "cheese wedge"),
    ("chicken", "chickens", "1F414", "chicken"),
    ("clock", "clocks", "23F0", "alarm clock"),
    ("cloud", "clouds", "2601", "cloud"),
    ("cookie", "cookies", "1F36A", "cookie"),
    ("corn", "corn", "1F33D", "ear of corn"),
    ("cow", "cows", "1F42E", "cow face"),
    ("crab", "crabs", "1F980", "crab"),
    ("crown", "crowns", "1F451", "crown"),
    ("cucumber", "cucumbers", "1F952", "cucumber"),
    ("cupcake", "cupcakes", "1F9C1", "cupcake"),
    ("deer", "deer", "1F98C", "deer"),
    ("dog", "dogs", "1F436", "dog face"),
    ("dolphin", "dolphins", "1F42C", "dolphin"),
    ("door", "doors", "1F6AA", "door"),
    ("doughnut", "doughnuts", "1F369", "doughnut"),
    ("dress", "dresses", "1F457", "dress"),
    ("drum", "drums", "1F941", "drum"),
    ("duck", "ducks", "1F986", "duck"),
    ("egg", "eggs", "1F95A", "egg"),
    ("eggplant", "eggplants", "1F346", "eggplant"),
    ("elephant", "elephants", "1F418", "elephant"),
    ("envelope", "envelopes", "2709", "envelope"),
    ("feather", "feathers", "1FAB6", "feather"),
    ("fish", "fish", "1F420", "tropical fish"),
    ("flamingo", "flamingos", "1F9A9", "flamingo"),
    ("flower", "flowers", "1F33B", "sunflower"),
    ("fox", "foxes", "1F98A", "fox"),
    ("frog", "frogs", "1F438", "frog"),
    ("ghost", "ghosts", "1F47B", "ghost"),
    ("gift", "gifts", "1F381", "wrapped gift"),
    ("giraffe", "giraffes", "1F992", "giraffe"),
    ("guitar", "guitars", "1F3B8", "guitar"),
    ("hamburger", "hamburgers", "1F354", "hamburger"),
    ("hammer", "hammers", "1F528", "hammer"),
    ("hat", "hats", "1F3A9", "top hat"),
    ("heart", "hearts", "2764", "red heart"),
    ("hedgehog", "hedgehogs", "1F994", "hedgehog"),
    ("helicopter", "helicopters", "1F681", "helicopter"),
    ("horse", "horses", "1F434", "horse face"),
    ("house", "houses", "1F3E0", "house"),
    ("kangaroo", "kangaroos", "1F998", "kangaroo"),
    ("key", "keys", "1F511", "key"),
    ("kite", "kites", "1FA81", "kite"),
    ("koala", "koalas", "1F428", "koala"),
    ("ladder", "ladders", "1FA9C", "ladder"),
    ("lemon", "lemons", "1F34B", "lemon"),
    ("lion", "lions", "1F981", "lion"),
    ("lobster", "lobsters", "1F99E", "lobster"),
    ("magnet", "magnets", "1F9F2", "magnet"),
    ("monkey", "monkeys", "1F435", "monkey face"),
    ("moon", "moons", "1F319", "crescent moon"),
    ("motorcycle", "motorcycles", "1F3CD", "motorcycle"),
    ("mouse", "mice", "1F42D", "mouse face"),
    ("mushroom", "mushrooms", "1F344", "mushroom"),
    ("octopus", "octopuses", "1F419", "octopus"),
    ("owl", "owls", "1F989", "owl"),
    ("panda", "pandas", "1F43C", "panda"),
    ("parrot", "parrots", "1F99C", "parrot"),
    ("peacock", "peacocks", "1F99A", "peacock"),
    ("pear", "pears", "1F350", "pear"),
    ("pencil", "pencils", "270F", "pencil"),
    ("penguin", "penguins", "1F427", "penguin"),
    ("pig", "pigs", "1F437", "pig face"),
    ("pineapple", "pineapples", "1F34D", "pineapple"),
    ("pizza", "pizzas", "1F355", "pizza"),
    ("pretzel", "pretzels", "1F968", "pretzel"),
    ("rabbit", "rabbits", "1F430", "rabbit face"),
    ("ring", "rings", "1F48D", "ring"),
    ("robot", "robots", "1F916", "robot"),
    ("rocket", "rockets", "1F680", "rocket"),
    ("rose", "roses", "1F339", "rose"),
    ("scarf", "scarves", "1F9E3", "scarf"),
    ("scissors", "scissors", "2702", "scissors"),
    ("shark", "sharks", "1F988", "shark"),
    ("shield", "shields", "1F6E1", "shield"),
    ("ship", "ships", "1F6A2", "ship"),
    ("shoe", "shoes", "1F45F", "running shoe"),
    ("skateboard", "skateboards", "1F6F9", "skateboard"),
    ("snail", "snails", "1F40C", "snail"),
    ("snake", "snakes", "1F40D", "snake"),
    ("snowman", "snowmen", "2603", "snowman"),
    ("spider", "spiders", "1F577", "spider"),
    ("star", "stars", "2B50", "star"),
    ("strawberry", "strawberries", "1F353", "strawberry"),
    ("sun", "suns", "2600", "sun"),
    ("swan", "swans", "1F9A2", "swan"),
    ("teapot", "teapots", "1FAD6", "teapot"),
    ("tiger", "tigers", "1F42F", "tiger face"),
    ("tomato", "tomatoes", "1F345", "tomato"),
    ("tractor", "tractors", "1F69C", "tractor"),
    ("train", "trains", "1F686", "train"),
    ("tree", "trees", "1F333", "deciduous tree"),
    ("trophy", "trophies", "1F3C6", "trophy"),
    ("truck", "trucks", "1F69A", "delivery truck"),
    ("trumpet", "trumpets", "1F3BA", "trumpet"),
    ("turtle", "turtles", "1F422", "turtle"),
    ("umbrella", "umbrellas", "2602", "umbrella"),
    ("unicorn", "unicorns", "1F984", "unicorn"),
    ("watch", "watches", "231A", "watch"),
    ("watermelon", "watermelons", "1F349", "watermelon"),
    ("whale", "whales", "1F40B", "whale"),
    ("wheel", "wheels", "1F6DE", "wheel"),
    ("wolf", "wolves", "1F43A", "wolf"),
    ("zebra", "zebras", "1F993", "zebra"),
]


def main() -> None:
    """Write the sheets and their index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("emoji", type=Path, help="unpacked emoji-datasource-google package folder")
    parser.add_argument("fluent", type=Path, help="unpacked @iconify-json/fluent-emoji-flat package folder")
    parser.add_argument("cldr", type=Path, help="unpacked cldr-annotations-full package folder")
    parser.add_argument("photos", type=Path, help="folder skimage/data")
    parser.add_argument("--out", type=Path, default=Path("olmo/data/scenes/assets"))
    args = parser.parse_args()
    check_names(args.cldr)
    args.out.mkdir(parents=True, exist_ok=True)
    write_sheet([noto(args.emoji, code) for _, _, code, _ in CONCEPTS], args.out / "noto.png")
    write_sheet([fluent(args.fluent, code) for _, _, code, _ in CONCEPTS], args.out / "fluent.png")
    index = [
        {"concept": name, "plural": plural, "code_point": code, "is_basic": name in BASIC}
        for name, plural, code, _ in CONCEPTS
    ]
    text = json.dumps({"sprite_px": SPRITE_PX, "columns": COLUMNS, "sprites": index}, indent=1) + "\n"
    (args.out / "sprites.json").write_text(text, encoding="utf-8")
    write_photos(args.photos, args.out / "photos.jpg")


def check_names(cldr: Path) -> None:
    """Stop where a code point is not called what the list says."""
    names = json.loads((cldr / "annotations/en/annotations.json").read_text("utf-8"))["annotations"]["annotations"]
    for _, _, code, expected in CONCEPTS:
        found = names[chr(int(code, 16))]["tts"][0]
        if found != expected:
            raise SystemExit(f"{code} is called {found!r} in CLDR, expected {expected!r}")


def noto(package: Path, code: str) -> Image.Image:
    """Noto's picture of a code point, RGBA."""
    rows = json.loads((package / "emoji.json").read_text("utf-8"))
    by_code = {row["unified"].removesuffix("-FE0F"): row for row in rows}
    with Image.open(package / "img/google/64" / by_code[code]["image"]) as picture:
        return picture.convert("RGBA")


def fluent(package: Path, code: str) -> Image.Image:
    """Fluent's picture of a code point, RGBA."""
    chars = json.loads((package / "chars.json").read_text("utf-8"))
    by_code = {key.upper().removesuffix("-FE0F"): name for key, name in chars.items()}
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    name = by_code[code]
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 32)) for side in ("width", "height"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    return draw_svg(svg)


def draw_svg(svg: str) -> Image.Image:
    """An SVG text as a sprite, RGBA."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_PX, height=SPRITE_PX)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def write_sheet(sprites: list[Image.Image], path: Path) -> None:
    """All sprites of one style in one picture, in rows."""
    rows = -(-len(sprites) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SPRITE_PX, rows * SPRITE_PX))
    for i, sprite in enumerate(sprites):
        sheet.paste(sprite, (i % COLUMNS * SPRITE_PX, i // COLUMNS * SPRITE_PX))
    sheet.save(path, optimize=True)


def write_photos(folder: Path, path: Path) -> None:
    """The photographs side by side, each the middle of its file."""
    sheet = Image.new("RGB", (PHOTO_PX * len(PHOTOS), PHOTO_PX))
    for i, name in enumerate(PHOTOS):
        with Image.open(folder / name) as photo:
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            square = photo.convert("RGB").crop((left, top, left + side, top + side))
        sheet.paste(square.resize((PHOTO_PX, PHOTO_PX), Image.Resampling.LANCZOS), (i * PHOTO_PX, 0))
    sheet.save(path, quality=82)


if __name__ == "__main__":
    main()

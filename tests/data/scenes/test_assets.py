from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from olmo.data.scenes.art import ASSETS, STYLES, concepts, sprite
from olmo.data.scenes.backgrounds import KINDS, Background, draw_clutter, make_background, photo_background
from olmo.data.scenes.signs import WORDS, word_mask
from olmo.exceptions import OLMoInputError

ROOT = Path(__file__).resolve().parents[3]


def test_licence_of_the_art_travels_with_it() -> None:
    text = (ASSETS / "LICENSE-noto-emoji.txt").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert "MIT License" in (ASSETS / "LICENSE-fluent-emoji.txt").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    named = {path.name for path in ASSETS.iterdir() if path.suffix in (".png", ".jpg")}
    assert all(name in notice for name in named), "every asset is accounted for"


def test_words_are_short_distinct_and_no_concepts() -> None:
    assert len(set(WORDS)) == 32 and all(3 <= len(w) <= 5 and w.isascii() and w.islower() for w in WORDS)
    assert not set(WORDS) & {form for c in concepts() for form in (c.name, c.plural)}


def test_word_masks_show_ink_and_differ() -> None:
    masks = {word_mask(w, 20).tobytes() for w in WORDS}
    assert len(masks) == len(WORDS)
    assert all(word_mask(w, 20).max() == 1.0 and word_mask(w, 20)[0].max() == 0.0 for w in WORDS)


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_are_pictures_of_their_kind(kind: Background) -> None:
    one, two = (make_background(np.random.default_rng(4), 90, kind) for _ in range(2))
    assert one.shape == (90, 90, 3) and one.dtype == np.uint8 and np.array_equal(one, two)
    colours = len(np.unique(one.reshape(-1, 3), axis=0))
    expected = {
        Background.plain: (1, 1),
        Background.stripes: (2, 2),
        Background.checks: (2, 2),
        Background.blobs: (2, 2),
    }
    low, high = expected.get(kind, (10, 90 * 90))
    assert low <= colours <= high


def test_clutter_leaves_most_of_the_picture_alone() -> None:
    canvas = np.full((168, 168, 3), 128, dtype=np.uint8)
    assert draw_clutter(np.random.default_rng(0), canvas, 0) is canvas
    for seed in range(20):
        drawn = draw_clutter(np.random.default_rng(seed), canvas, 5)
        assert (drawn != canvas).any(-1).mean() < 0.2
        assert (canvas == 128).all(), "the input is not changed"


@pytest.mark.parametrize("style", STYLES)
def test_sprites_fit_their_size(style: str) -> None:
    for concept in concepts():
        drawn = sprite(concept.index, 40, 0, False, style)
        assert 37 <= max(drawn.mask.shape) <= 41 and drawn.mask.mean() > 0.15, concept
        assert drawn.colour.shape == (*drawn.mask.shape, 3) and drawn.rest.shape == (*drawn.mask.shape, 1)
        mirrored = sprite(concept.index, 40, 0, True, style)
        assert abs(int(mirrored.mask.sum()) - int(drawn.mask.sum())) <= 0.02 * drawn.mask.size


def test_styles_draw_the_same_thing_differently() -> None:
    apart = [(sprite(c.index, 48, 0, False, a).mask.sum(), sprite(c.index, 48, 0, False, b).mask.sum())
             for a, b in [STYLES] for c in concepts()]  # fmt: skip
    assert sum(a != b for a, b in apart) > 0.9 * len(apart)


def test_art_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OLMoInputError, match="neither a bundled style"):
        sprite(0, 40, 0, False, "pastel")
    Image.new("RGBA", (64, 64)).save(tmp_path / "small.png")
    with pytest.raises(OLMoInputError, match="build it again"):
        sprite(0, 40, 0, False, str(tmp_path / "small.png"))


def test_photographs_vary_and_stay_in_range() -> None:
    drawn = [photo_background(np.random.default_rng(seed), 96) for seed in range(12)]
    assert all(d.shape == (96, 96, 3) and d.dtype == np.uint8 for d in drawn)
    assert len({d.tobytes() for d in drawn}) == 12 and all(d.std() > 2 for d in drawn)
    assert np.array_equal(drawn[3], photo_background(np.random.default_rng(3), 96))

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import tokenizers
from PIL import Image
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.tokenizer import Tokenizer
from olmo.viz.data_page import data_page
from olmo.viz.page_pictures import crop_pixels
from olmo.viz.page_tokens import learned_texts, tokens_html
from olmo.viz.seen_example import SeenExample, see_example

SPEC = ImageSpec(image_size=56, patch_size=7, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CONFIG = MolmoPreprocessorConfig(overlap_margins=[2, 2], max_crops=4)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return Tokenizer(backend, 257)


@pytest.fixture
def preprocess(tokenizer: Tokenizer) -> Preprocessor:
    return Preprocessor(tokenizer, DataFormatter(), CONFIG, SPEC, for_inference=False, include_image=True)


def picture(height: int = 90, width: int = 140) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = 200
    image[: height // 2, :, 1] = 120
    return image


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def see(example: Mapping[str, Any], preprocess: Preprocessor, place: str = "train.jsonl:1") -> SeenExample:
    return see_example(place, lambda: example, preprocess, (0, 0))


class _Checker(HTMLParser):
    """Refuses what is not closed; gathers tags and attributes."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_a_page_shows_pictures_tokens_points_and_what_is_wrong(preprocess: Preprocessor) -> None:
    good = {
        "image": picture(),
        "message_list": [
            conversation("what", "a red <b>thing</b>"),
            {"style": "pointing", "label": "cat", "points": [[10, 20], [50, 60]], "point_scale": 100},
        ],
    }
    examples = [
        see(good, preprocess),
        see({"image": "missing.png", **conversation("q", EVIL)}, preprocess, "train.jsonl:2"),
        see(conversation("q", "no picture"), preprocess, "train.jsonl:3"),
    ]
    page = data_page(examples, preprocess, EVIL, {"model": EVIL, "seed": 0})
    checked = _Checker(page)
    names = [tag for tag, _ in checked.tags]
    assert "script" not in names and "b" not in names and not {"link", "iframe"} & set(names)
    assert "default-src 'none'" in page
    images = [attrs["src"] or "" for tag, attrs in checked.tags if tag == "img"]
    assert all(src.startswith("data:image/jpeg;base64,") for src in images)
    assert len(images) == 1 + examples[0].n_crops and examples[0].n_crops > 1
    assert "1 cannot be used" in page and "missing.png" in page
    assert "a red &lt;b&gt;thing&lt;/b&gt;" in page
    assert "shared by all conversations" in page and "conversation 2" in page
    ids = {attrs.get("id") for _, attrs in checked.tags}
    assert {"e1", "e2", "e3"} <= ids


def test_every_token_is_there_with_its_weight(preprocess: Preprocessor, tokenizer: Tokenizer) -> None:
    seen = see({**conversation("q", "ab"), "weight": 0.25}, preprocess)
    assert seen.inputs is not None
    html = tokens_html(seen.inputs, tokenizer)
    spans = re.findall(r'<span class="t([^"]*)"[^>]*title="([^"]*)">([^<]*)</span>', html)
    assert len(spans) == seen.n_tokens
    learned = [(text, title) for classes, title, text in spans if "learned" in classes]
    assert [text for text, _ in learned] == [" ", "a", "b", "&lt;|endoftext|&gt;"]
    assert all("learned with weight 0.25" in title for _, title in learned)
    assert seen.n_learned == 4 and seen.weight == pytest.approx(1.0)
    assert spans[0][0] == " special" and "read only" in spans[0][1]


def test_parts_of_a_character_are_shown_as_bytes(preprocess: Preprocessor, tokenizer: Tokenizer) -> None:
    seen = see(conversation("q", "é\n"), preprocess)
    assert seen.inputs is not None
    html = tokens_html(seen.inputs, tokenizer)
    assert "[c3]" in html and "[a9]" in html and "⏎" in html
    assert learned_texts(seen.inputs, tokenizer) == ["é"]


def test_what_does_not_fit_is_counted(tokenizer: Tokenizer) -> None:
    preprocess = Preprocessor(tokenizer, DataFormatter(), CONFIG, SPEC, False, include_image=True, max_seq_len=25)
    cut = see(conversation("q", "x" * 30), preprocess)
    # first token, " User: q Assistant:", " xxx", end
    assert (cut.n_tokens, cut.n_uncut) == (25, 1 + 19 + 31 + 1) and cut.n_cut == 27
    whole = see(conversation("q", "xxx"), preprocess)
    assert (whole.n_tokens, whole.n_cut) == (25, 0)
    nothing = see(conversation("q" * 40, "x"), preprocess)
    page = data_page([cut, nothing], preprocess, "page", {})
    assert "the last 27 of 52 tokens do not fit" in page and "nothing is learned" in page and "2 cut" in page


def test_crops_come_out_as_they_went_in() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    mean, std = np.float32(SPEC.mean), np.float32(SPEC.std)
    images = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    masks = np.ones((2, 64), dtype=np.float32)
    assert np.abs(crop_pixels(images, masks, SPEC).astype(int) - pixels).max() <= 1
    masks[1, 8:] = 0.0
    shaded = crop_pixels(images, masks, SPEC)
    assert np.abs(shaded[1, :7].astype(int) - pixels[1, :7]).max() <= 1, "the first row of patches is real"
    assert shaded[1, 7:].mean() < 0.5 * pixels[1, 7:].mean()


def test_points_are_drawn_on_the_original(preprocess: Preprocessor) -> None:
    def original(points: list[list[float]]) -> np.ndarray:
        example = {"image": np.full((80, 80, 3), 128, np.uint8), "style": "pointing", "label": "cat"}
        seen = see({**example, "points": points, "point_scale": 100}, preprocess)
        page = data_page([seen], preprocess, "page", {})
        first = re.search(r"data:image/jpeg;base64,([^\"]+)", page)
        assert first is not None
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(first.group(1)))))

    marked = original([[50.0, 50.0]])
    plain = original([])
    assert np.abs(marked[30:50, 30:50].astype(int) - 128).max() > 50
    assert np.abs(plain.astype(int) - 128).max() < 10


def test_seeing_draws_as_training_does(preprocess: Preprocessor) -> None:
    example = {"image": picture(), "style": "pointing", "label": "cat", "points": []}
    first, again, other = (see_example("p", lambda: example, preprocess, (0, i)) for i in (0, 0, 1))
    wanted = preprocess(example, rng=np.random.default_rng([0, 1]))["input_ids"].tolist()
    assert first.inputs is not None and again.inputs is not None and other.inputs is not None
    assert first.inputs["input_ids"].tolist() == again.inputs["input_ids"].tolist()
    assert other.inputs["input_ids"].tolist() == wanted

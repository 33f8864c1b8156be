"""No option that makes decoding quicker changes what is said: the bundled model, greedy, in float32."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.models.bundled import bundled_model_folder
from olmo.models.feature_cache import FeatureCache
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo
from olmo.models.prefix_cache import PrefixCache

PICTURE = "examples/pictures/scene.png"
QUESTIONS = ("Point to the trees.", "What things are there?", "How many trees are there?", "Describe the picture.")


@pytest.fixture(scope="module")
def nano():
    return Molmo.from_pretrained(bundled_model_folder())


@pytest.fixture(scope="module")
def asked(nano):
    """The questions as the model takes them, and its plain answers."""
    preprocess = nano.config.build_preprocessor(for_inference=True)
    found = [preprocess({"image": Image.open(PICTURE), "prompt": question}) for question in QUESTIONS]
    return [(inputs, nano.generate(**inputs, max_new_tokens=60)) for inputs in found]


@pytest.mark.parametrize("n_guesses", [1, 4, 16])
def test_prompt_lookup(nano, asked, n_guesses):
    for inputs, plain in asked:
        found = nano.generate(**inputs, max_new_tokens=60, prompt_lookup=n_guesses)
        assert torch.equal(found.token_ids, plain.token_ids)
        assert "".join(nano.stream(**inputs, max_new_tokens=60, prompt_lookup=n_guesses)) == plain.text[0]


def test_kept_features(nano, asked):
    nano.feature_cache = FeatureCache()
    try:
        for inputs, plain in asked:
            assert torch.equal(nano.generate(**inputs, max_new_tokens=60).token_ids, plain.token_ids)
        assert nano.feature_cache.n_made == 1 and nano.feature_cache.n_found == len(QUESTIONS) - 1
    finally:
        nano.feature_cache = None


def test_prompt_lookup_is_for_one_row(nano, asked):
    inputs = asked[0][0]
    ids = inputs["input_ids"].expand(2, -1)
    images = inputs["images"][None].expand(2, *inputs["images"].shape)
    with pytest.raises(OLMoInputError, match="one prompt at a time"):
        nano.generate(ids, images, prompt_lookup=4)


TURNS = ("What things are there?", "How many trees are there?", "Point to the trees.")


@pytest.mark.parametrize("n_guesses", [0, 4])
def test_a_chat_reads_only_what_is_new(nano, n_guesses):
    preprocess = nano.config.build_preprocessor(for_inference=True)
    messages: list[dict[str, str]] = []
    kept = PrefixCache()
    for turn, question in enumerate(TURNS):
        messages.append({"role": "user", "content": question})
        inputs = preprocess({"image": Image.open(PICTURE), "messages": messages})
        plain = nano.generate(**inputs, max_new_tokens=60)
        before = kept.n_reused
        nano.prefix_cache = kept
        try:
            found = nano.generate(**inputs, max_new_tokens=60, prompt_lookup=n_guesses)
        finally:
            nano.prefix_cache = None
        assert torch.equal(found.token_ids, plain.token_ids)
        assert (kept.n_reused - before >= 144) is (turn > 0)  # the picture among them
        messages.append({"role": "assistant", "content": plain.text[0]})


def test_another_picture_and_the_same_prompt(nano, asked):
    nano.prefix_cache = PrefixCache()
    try:
        inputs, plain = asked[0]
        nano.generate(**inputs, max_new_tokens=60)
        other = {**inputs, "images": inputs["images"].flip(-1) * 0.5}
        nano.generate(**other, max_new_tokens=5)
        assert nano.prefix_cache.n_reused == 0
        for _ in range(2):  # the very same prompt: all but its last token is known
            assert torch.equal(nano.generate(**inputs, max_new_tokens=60).token_ids, plain.token_ids)
        assert nano.prefix_cache.n_reused == inputs["input_ids"].shape[-1] - 1
        nano.train()
        nano.eval()
        nano.generate(**inputs, max_new_tokens=2)
        assert nano.prefix_cache.n_reused == inputs["input_ids"].shape[-1] - 1
    finally:
        nano.prefix_cache = None


def test_a_prompt_that_differs_before_or_within_the_picture_is_read_anew(nano, asked):
    inputs, plain = asked[0]
    ids = inputs["input_ids"].clone()
    nano.prefix_cache = PrefixCache()
    try:
        nano.generate(**{**inputs, "input_ids": ids.index_fill(-1, torch.tensor([0]), 5)}, max_new_tokens=2)
        assert torch.equal(nano.generate(**inputs, max_new_tokens=60).token_ids, plain.token_ids)
        assert nano.prefix_cache.n_reused == 0
    finally:
        nano.prefix_cache = None


def test_models_whose_pictures_look_ahead_or_are_chosen_by_the_question_do_not(nano):
    assert nano.reuses_prefixes()
    ahead = Molmo.from_pretrained(bundled_model_folder(), overrides=["bi_directional_attn=within_image"])
    assert not ahead.reuses_prefixes()
    assert not HeMolmo.from_pretrained(bundled_model_folder()).reuses_prefixes()

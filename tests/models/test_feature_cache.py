"""Features that are kept: the same answers, nothing encoded twice, an end to the memory, nothing stale."""

from __future__ import annotations

import pytest
import torch
from tiny import build, example, picture

from olmo.models.feature_cache import FeatureCache, features_kept


@pytest.fixture
def model(make_config):
    return build(make_config(), seed=0)


@pytest.fixture
def encoded(model, monkeypatch):
    """Numbers of crops that the encoder was given, call by call."""
    calls: list[int] = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pictures: calls.append(len(pictures.images)) or encode(pictures))
    return calls


def inputs(model, question: str, seed: int = 0):
    preprocess = model.config.build_preprocessor(for_inference=True)
    return preprocess(example(question, picture(80, 150, seed=seed)))


def logits(model, given) -> torch.Tensor:
    with torch.no_grad():
        tensors = {k: v[None] for k, v in given.items() if isinstance(v, torch.Tensor)}
        return model(**tensors, logits_at="last").logits


def test_a_second_question_encodes_nothing_and_is_answered_alike(model, encoded):
    first, second = inputs(model, "what is this?"), inputs(model, "and where?")
    plain = logits(model, second)
    encoded.clear()
    model.feature_cache = FeatureCache()
    logits(model, first)
    kept = logits(model, second)
    assert len(encoded) == 1
    torch.testing.assert_close(kept, plain, atol=1e-5, rtol=1e-5)
    assert model.feature_cache.n_found == model.feature_cache.n_made == encoded[0]


def test_the_same_picture_twice_in_a_batch_is_encoded_once(model, encoded):
    model.feature_cache = FeatureCache()
    collate = model.config.build_collator(include_metadata=False)
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    rows = [preprocess(example("what?", picture(80, 150, seed=s), answer="x")) for s in (0, 1, 0)]
    batch = collate(rows)
    with torch.no_grad():
        whole = model(**batch).logits
        model.feature_cache = None
        plain = model(**batch).logits
    assert encoded[0] * 3 == encoded[1] * 2
    torch.testing.assert_close(whole, plain, atol=1e-5, rtol=1e-5)


def test_another_picture_has_its_own_features(model, encoded):
    model.feature_cache = FeatureCache()
    one, other = inputs(model, "what?", seed=0), inputs(model, "what?", seed=1)
    assert not torch.equal(logits(model, one), logits(model, other))
    assert len(encoded) == 2


def test_what_was_not_asked_for_longest_goes_first(model, encoded):
    given = [inputs(model, "what?", seed=s) for s in range(3)]
    model.feature_cache = FeatureCache()
    logits(model, given[0])
    of_one = model.feature_cache.n_bytes
    model.feature_cache = FeatureCache(max_bytes=2 * of_one)
    for i in (0, 1, 0, 2):
        logits(model, given[i])
    assert model.feature_cache.n_bytes <= 2 * of_one
    encoded.clear()
    logits(model, given[0])
    assert encoded == []
    logits(model, given[1])
    assert len(encoded) == 1


def test_training_forgets_and_does_not_use_it(model, encoded):
    given = inputs(model, "what?")
    model.feature_cache = FeatureCache()
    logits(model, given)
    model.train()
    assert model.feature_cache.n_bytes == 0
    logits(model, given)
    logits(model, given)
    assert len(encoded) == 3 and model.feature_cache.n_bytes == 0
    model.eval()
    tensors = {k: v[None] for k, v in given.items() if isinstance(v, torch.Tensor)}
    model(**tensors)  # a gradient is recorded, which has to reach the encoder
    assert model.feature_cache.n_bytes == 0


def test_a_cache_for_the_time_of_a_block(model):
    with features_kept(model):
        assert model.feature_cache is not None
    assert model.feature_cache is None
    own = model.feature_cache = FeatureCache()
    with features_kept(model):
        assert model.feature_cache is own
    assert model.feature_cache is own

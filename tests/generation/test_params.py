from __future__ import annotations

import dataclasses

import pytest

from olmo.exceptions import OLMoInputError
from olmo.generation.params import GenerationParams, as_token_ids


def test_defaults_are_the_documented_ones():
    params = GenerationParams()
    assert dataclasses.asdict(params) == {
        "max_new_tokens": 200,
        "min_new_tokens": 0,
        "do_sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": None,
        "num_beams": 1,
        "eos_token_ids": (),
        "pad_token_id": None,
        "stop_strings": (),
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "output_scores": False,
        "prompt_lookup": 0,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("min_new_tokens", -1),
        ("min_new_tokens", 201),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", 0),
        ("top_k", 1.5),
        ("num_beams", 0),
        ("eos_token_ids", (-1,)),
        ("eos_token_ids", "5"),
        ("eos_token_ids", 2.0),
        ("pad_token_id", -2),
        ("stop_strings", ("",)),
        ("stop_strings", (3,)),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("length_penalty", float("nan")),
        ("length_penalty", 11),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name, value):
    with pytest.raises(OLMoInputError, match=f"{name} is .*allowed: ") as caught:
        GenerationParams(**{name: value})
    shown = value[0] if isinstance(value, tuple) else value
    assert repr(shown) in str(caught.value)


def test_beams_and_sampling_exclude_each_other():
    with pytest.raises(OLMoInputError, match=r"num_beams=2 with do_sample=True"):
        GenerationParams(num_beams=2, do_sample=True)


@pytest.mark.parametrize(
    ("value", "ids"), [(None, ()), (5, (5,)), ([5, 6, 5], (5, 6)), ((7,), (7,)), (range(2), (0, 1))]
)
def test_end_ids_may_be_one_or_several(value, ids):
    assert as_token_ids(value) == ids
    assert GenerationParams(eos_token_ids=value).eos_token_ids == ids


def test_a_single_stop_string_is_not_taken_apart():
    assert GenerationParams(stop_strings="END").stop_strings == ("END",)


@pytest.mark.parametrize(
    ("settings", "fill_id"),
    [({}, 0), ({"eos_token_ids": (7, 8)}, 7), ({"eos_token_ids": (7,), "pad_token_id": -1}, -1)],
)
def test_fill_id(settings, fill_id):
    assert GenerationParams(**settings).fill_id == fill_id


@pytest.mark.parametrize(
    ("settings", "is_greedy"),
    [
        ({}, True),
        ({"temperature": 0.5}, True),
        ({"do_sample": True}, False),
        ({"do_sample": True, "temperature": 0}, True),
        ({"do_sample": True, "top_k": 1}, True),
    ],
)
def test_is_greedy(settings, is_greedy):
    assert GenerationParams(**settings).is_greedy is is_greedy

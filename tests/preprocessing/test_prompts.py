"""Wordings and style names."""

from __future__ import annotations

import string

import numpy as np
import pytest

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.prompts import (
    DEMO_STYLES,
    KNOWN_STYLES,
    POINT_STYLES,
    STYLE_ALIASES,
    TEMPLATES,
    UNPREFIXED_STYLES,
    choose_prompt,
    resolve_style,
)


def test_wordings_are_distinct_and_take_what_their_style_offers():
    for style, wordings in TEMPLATES.items():
        assert len(set(wordings)) == len(wordings) >= 12
        for wording in wordings:
            fields = {name for _, name, _, _ in string.Formatter().parse(wording) if name is not None}
            assert fields == ({"label"} if style in POINT_STYLES else set())
            assert wording == wording.strip()


def test_every_named_style_is_known():
    assert len(set(KNOWN_STYLES)) == len(KNOWN_STYLES)
    for named in (DEMO_STYLES, POINT_STYLES, UNPREFIXED_STYLES, set(STYLE_ALIASES.values()), set(TEMPLATES)):
        assert named <= set(KNOWN_STYLES)


def test_aliases_of_evaluation():
    assert resolve_style("eval_short_answer") == "vqa2"
    assert resolve_style("eval_multiple_choice") == "a_okvqa_mc"
    assert resolve_style("my_own_style") == "my_own_style"
    assert resolve_style(None) is None


@pytest.mark.parametrize("style", ["", " ", "a\nb", 3])
def test_a_style_is_a_name(style):
    with pytest.raises(OLMoInputError, match="one-line name such as long_caption"):
        resolve_style(style)


def test_without_a_generator_the_first_wording_is_taken():
    assert choose_prompt("pointing", "the cat", None) == "Point to the cat."
    assert choose_prompt("long_caption", None, None) == TEMPLATES["long_caption"][0]


def test_drawn_wordings_are_reproducible_and_all_occur():
    rng = np.random.default_rng(0)
    drawn = [choose_prompt("point_count", "{x} dogs", rng) for _ in range(400)]
    assert len(set(drawn)) == len(TEMPLATES["point_count"])
    assert all("{x} dogs" in d for d in drawn)
    again = np.random.default_rng(0)
    assert drawn == [choose_prompt("point_count", "{x} dogs", again) for _ in range(400)]


def test_a_missing_label_is_named():
    with pytest.raises(OLMoInputError, match="style 'pointing' needs a question or a 'label'"):
        choose_prompt("pointing", None, None)

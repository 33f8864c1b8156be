from __future__ import annotations

import itertools

import pytest
import torch

from olmo.nn.attention_mask import additive_mask, build_attention_mask, causal_mask
from olmo.nn.segments import EXAMPLE_STRIDE, SHARED_SEGMENT

BATCH, TOTAL = 3, 9


def random_rules(seed, past):
    generator = torch.Generator().manual_seed(seed)

    def draw(high, *shape):
        return torch.randint(0, high, shape, generator=generator)

    return {
        "key_is_valid": draw(3, BATCH, TOTAL) > 0,
        "segment_ids": draw(3, BATCH, TOTAL),
        "group_ids": draw(3, BATCH, TOTAL),
        "free_rows": draw(3, BATCH, TOTAL - past) == 0,
        "free_keys": draw(3, BATCH, TOTAL) == 0,
    }


def sees(b, query, key, past, rules):
    """One pair at a time, in plain words."""
    if query == key:
        return True
    may = key <= query
    if "group_ids" in rules:
        group = rules["group_ids"][b]
        may |= bool(group[query] == group[key] > 0)
    if "free_rows" in rules:
        may |= bool(rules["free_rows"][b][query - past] and rules["free_keys"][b][key])
    if "key_is_valid" in rules:
        may &= bool(rules["key_is_valid"][b][key])
    if "segment_ids" in rules:
        may &= bool(rules["segment_ids"][b][query] <= rules["segment_ids"][b][key])
    return may


PARTS = [(), ("key_is_valid",), ("segment_ids",), ("group_ids",), ("free_rows", "free_keys")]


@pytest.mark.parametrize("past", [0, 4, TOTAL - 1])
@pytest.mark.parametrize("parts", [*itertools.combinations(PARTS, 3), tuple(PARTS)])
def test_against_one_pair_at_a_time(past, parts):
    names = {name for part in parts for name in part}
    rules = {name: value for name, value in random_rules(1, past).items() if name in names}
    mask = build_attention_mask(TOTAL - past, past_length=past, **rules)
    assert mask.shape == (BATCH, 1, TOTAL - past, TOTAL) and mask.dtype == torch.bool
    for b, query, key in itertools.product(range(BATCH), range(past, TOTAL), range(TOTAL)):
        assert mask[b, 0, query - past, key] == sees(b, query, key, past, rules), (b, query, key)


def test_plain_causality_needs_no_mask():
    assert build_attention_mask(5) is None
    assert build_attention_mask(1, past_length=5) is None
    assert build_attention_mask(3, past_length=5) is None


def test_causal_mask_with_a_past():
    expected = [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(2, 2).tolist() == [expected]


def test_padding_is_invisible_and_no_row_is_empty():
    valid = torch.tensor([[False, False, True, True]])
    mask = build_attention_mask(4, key_is_valid=valid)[0, 0]
    assert mask.any(-1).all()
    assert mask[2:, :2].sum() == 0


def test_branches_of_a_message_tree_do_not_see_one_another():
    segments = torch.tensor([[9, 9, 1, 1, 2, 2]])  # a shared picture, then two conversations
    mask = build_attention_mask(6, segment_ids=segments)[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_text_rows_stay_causal_with_groups():
    groups = torch.tensor([[0, 1, 1, 0, 2, 2, 0]])
    mask = build_attention_mask(7, group_ids=groups)[0, 0]
    causal = causal_mask(7, 0)[0]
    text = groups[0] == 0
    assert torch.equal(mask[text], causal[text])
    assert mask[1, 2] and mask[4, 5] and not mask[1, 4]


def test_additive_mask():
    mask = torch.tensor([[True, False]])
    bias = additive_mask(mask, torch.bfloat16)
    assert bias.dtype == torch.bfloat16 and bias.tolist() == [[0.0, float("-inf")]]


def test_examples_of_a_packed_row_do_not_see_one_another_even_where_pictures_look_ahead():
    later = EXAMPLE_STRIDE
    segments = torch.tensor([[SHARED_SEGMENT, 1, later + SHARED_SEGMENT, later + 1, -1]])
    pictures = torch.tensor([[1, 0, 1, 0, 0]])  # one group: all pictures of a row see each other
    is_picture = pictures > 0
    for rules in ({"group_ids": pictures}, {"free_rows": is_picture, "free_keys": ~is_picture}):
        mask = build_attention_mask(5, segment_ids=segments, **rules)[0, 0].int().tolist()
        assert mask == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


def test_segments_alone_keep_conversations_and_examples_apart():
    shared, later = SHARED_SEGMENT, EXAMPLE_STRIDE
    segments = torch.tensor([[shared, 1, 2, later + shared, later + 1, 2 * later + 1, -1]])
    assert build_attention_mask(7, segment_ids=segments)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],  # padding; what it sees goes nowhere
    ]

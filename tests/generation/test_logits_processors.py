from __future__ import annotations

import pytest
import torch
from toy_steps import ScriptStep, hash_step

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import generate
from olmo.generation.logits_processors import apply_repetition_penalty, forbid_tokens, seen_mask
from olmo.generation.params import GenerationParams


def test_seen_mask_passes_over_ids_outside_the_vocabulary():
    mask = seen_mask(torch.tensor([[-1, 2, 2], [0, 9, 4]]), 5)
    assert mask.tolist() == [[False, False, True, False, False], [True, False, False, False, True]]


def test_seen_mask_of_nothing():
    assert not seen_mask(torch.zeros(2, 0, dtype=torch.int64), 4).any()


def test_repetition_penalty_lowers_both_signs_and_leaves_its_input():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert apply_repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    assert logits.tolist() == [[2.0, -2.0, 2.0, -2.0]]


def test_forbid_tokens():
    logits = torch.zeros(2, 4)
    assert forbid_tokens(logits, torch.tensor([1, 3]))[0].tolist() == [0.0, -torch.inf, 0.0, -torch.inf]
    assert not logits.any()


def test_repetition_penalty_counts_generated_tokens():
    step = ScriptStep([[3]], 6)  # wants token 3 for ever; the others are equal
    params = GenerationParams(max_new_tokens=6, repetition_penalty=1e9)
    ids = generate(step, step.first_logits(), params).token_ids[0].tolist()
    assert ids[0] == 3 and 3 not in ids[1:]


def test_repetition_penalty_counts_the_prompt_of_its_own_row():
    step = ScriptStep([[3], [3]], 6)
    params = GenerationParams(max_new_tokens=1, repetition_penalty=100.0)
    prompt_ids = torch.tensor([[-1, 3], [-1, 2]])
    ids = generate(step, step.first_logits(), params, prompt_ids=prompt_ids).token_ids
    assert ids[:, 0].tolist() == [0, 3]


def test_repetition_penalty_below_one_repeats():
    step = hash_step(1, 20)
    favourite = int(step.first_logits().argmax())
    step.table = step.table.abs() + 0.1
    params = GenerationParams(max_new_tokens=5, repetition_penalty=1e-4)
    first = torch.nn.functional.one_hot(torch.tensor([favourite]), 20).float() * 50
    assert set(generate(step, first, params).token_ids[0].tolist()) == {favourite}


def test_hooks_see_the_history_and_are_chained():
    step = ScriptStep([[1, 2, 3, 4], [4, 3, 2, 1]], 6)
    seen = []

    def record(ids, logits):
        seen.append(ids.tolist())
        return logits + 1

    def forbid_two(ids, logits):
        assert logits.min() == 2
        return forbid_tokens(logits, torch.tensor([2]))

    params = GenerationParams(max_new_tokens=3)
    ids = generate(step, step.first_logits(), params, logits_processors=[record, forbid_two]).token_ids
    assert ids.tolist() == [[1, 0, 3], [4, 3, 0]]
    assert seen == [[[], []], [[1], [4]], [[1, 0], [4, 3]]]


def test_a_hook_cannot_end_a_row_before_the_minimum():
    step = ScriptStep([[1]], 4)

    def want_end(ids, logits):
        return logits + torch.tensor([0.0, 0.0, 0.0, 100.0])

    params = GenerationParams(max_new_tokens=5, min_new_tokens=2, eos_token_ids=3)
    ids = generate(step, step.first_logits(), params, logits_processors=[want_end]).token_ids
    assert ids.tolist() == [[1, 1, 3]]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda ids, logits: None, "returned NoneType"),
        (lambda ids, logits: logits[:, :2], r"returned \[1, 2\].*\[1, 4\]"),
        (lambda ids, logits: logits - torch.inf, "left row 0 without a token"),
        (lambda ids, logits: logits * torch.nan, "left row 0 without a token"),
    ],
)
def test_a_broken_hook_is_named(hook, message):
    step = ScriptStep([[1]], 4)
    with pytest.raises(OLMoInputError, match=message):
        generate(step, step.first_logits(), GenerationParams(), logits_processors=[hook])

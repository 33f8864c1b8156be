"""Guesses from the text so far: the same tokens in fewer passes, whatever is guessed."""

from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import generate
from olmo.generation.params import GenerationParams
from olmo.generation.prompt_lookup import LookupStep, lookup

VOCAB = 12


@pytest.mark.parametrize(
    ("tokens", "n", "wanted"),
    [
        ([1, 2, 3, 9, 1, 2, 3], 2, [9, 1]),  # the longest end was there before
        ([1, 2, 5, 8, 2, 5], 3, [8, 2, 5]),  # only its last two tokens were
        ([5, 3, 7, 4, 3], 3, []),  # only its last one was
        ([3, 8, 1, 3, 8, 6, 3, 8], 1, [6]),  # the last time counts
        ([1, 2, 3, 4], 4, []),
        ([7], 4, []),
        ([], 4, []),
        ([1, 2, 1], 0, []),
    ],
)
def test_what_followed_before(tokens, n, wanted):
    assert lookup(tokens, n) == wanted


class Walk:
    """A toy model: the next token follows from the last two; counts its passes and refuses to overflow."""

    def __init__(self, prompt, room):
        self.tokens, self.size, self.n_passes = list(prompt), len(prompt) + room, 0

    def logits(self):
        return -(torch.arange(VOCAB) - (3 * self.tokens[-1] + self.tokens[-2]) % 5).abs().float()

    def __call__(self, token_ids):
        return self.run(token_ids[:, None])[:, -1]

    def run(self, token_ids):
        self.n_passes += 1
        rows = []
        for token in token_ids[0].tolist():
            self.tokens.append(token)
            rows.append(self.logits())
        assert len(self.tokens) <= self.size, "more tokens than the cache holds"
        return torch.stack(rows)[None]

    def take_back(self, n):
        self.tokens = self.tokens[: len(self.tokens) - n]

    @property
    def room(self):
        return self.size - len(self.tokens)

    def reorder(self, rows):
        raise AssertionError


@pytest.mark.parametrize("n_guesses", [1, 3, 8, 64])
@pytest.mark.parametrize("prompt", [[1, 2], [3, 4, 3, 4, 1, 1], [0, 1, 2, 3, 4, 0, 1, 2]])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 1.5}])
def test_the_same_tokens_as_without_in_fewer_passes(prompt, n_guesses, sampling):
    params = GenerationParams(max_new_tokens=40, **sampling)
    plain, inner = Walk(prompt, 40), Walk(prompt, 40)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    wanted = generate(plain, plain.logits()[None], params, generator=seeds[0]).token_ids
    step = LookupStep(inner, prompt, n_guesses)
    found = generate(step, inner.logits()[None], params, generator=seeds[1]).token_ids
    assert torch.equal(found, wanted)
    assert step.n_tokens == plain.n_passes == 39 and step.n_passes == inner.n_passes <= 39
    if not sampling and n_guesses >= 3:  # the walk goes round in a circle soon
        assert step.n_passes <= 25


@pytest.mark.parametrize("value", [-1, 65, 1.5, True])
def test_a_number_out_of_range_is_refused(value):
    with pytest.raises(OLMoInputError, match="prompt_lookup"):
        GenerationParams(prompt_lookup=value)


def test_beams_are_refused():
    with pytest.raises(OLMoInputError, match="Leave out one of the two"):
        GenerationParams(prompt_lookup=4, num_beams=2)

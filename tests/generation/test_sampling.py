from __future__ import annotations

import pytest
import torch
from scipy import stats

from olmo.exceptions import OLMoInputError
from olmo.generation import sampling
from olmo.generation.params import GenerationParams
from olmo.generation.sampling import apply_temperature, draw, sample, top_k_candidates, top_p_candidates

N_DRAWS = 20_000
PROBABILITIES = torch.tensor([0.30, 0.02, 0.20, 0.05, 0.15, 0.03, 0.10, 0.08, 0.06, 0.01])


def _draws(seed: int = 0, **settings) -> torch.Tensor:
    logits = PROBABILITIES.log().expand(N_DRAWS, -1)
    params = GenerationParams(do_sample=True, **settings)
    return sample(logits, params, torch.Generator().manual_seed(seed)).bincount(minlength=len(PROBABILITIES))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, range(10)),
        ({"top_k": 4}, [0, 2, 4, 6]),
        ({"top_k": 100}, range(10)),
        ({"top_p": 0.7}, [0, 2, 4, 6]),  # 0.30 + 0.20 + 0.15 = 0.65 is too little
        ({"top_p": 0.64}, [0, 2, 4]),
        ({"top_p": 0.01}, [0]),
        ({"top_k": 4, "top_p": 0.7}, [0, 2, 4]),  # of the four, 0.65 / 0.75 reaches 0.7
    ],
)
def test_draws_stay_inside_and_follow_the_renormalised_probabilities(settings, allowed):
    counts = _draws(**settings)
    allowed = list(allowed)
    assert counts[allowed].sum() == N_DRAWS
    if len(allowed) > 1:
        expected = PROBABILITIES[allowed].double() / PROBABILITIES[allowed].double().sum() * N_DRAWS
        assert stats.chisquare(counts[allowed].numpy(), expected.numpy()).pvalue > 0.01


def test_temperature_sharpens_as_the_formula_says():
    counts = _draws(temperature=0.5)
    expected = (PROBABILITIES.double() ** 2 / (PROBABILITIES.double() ** 2).sum()) * N_DRAWS
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"temperature": 0}, {"temperature": 1e-30}, {"top_p": 1e-9}])
def test_limits_equal_greedy(settings):
    logits = torch.randn(50, 300, generator=_seeded(1)) * 4
    chosen = sample(logits, GenerationParams(do_sample=True, **settings), _seeded(2))
    assert torch.equal(chosen, logits.argmax(-1))


def test_a_seed_reproduces_and_another_does_not():
    logits = torch.randn(64, 300, generator=_seeded(1))
    params = GenerationParams(do_sample=True)
    assert torch.equal(sample(logits, params, _seeded(5)), sample(logits, params, _seeded(5)))
    assert not torch.equal(sample(logits, params, _seeded(5)), sample(logits, params, _seeded(6)))


def test_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    sample(torch.randn(4, 10, generator=_seeded(1)), GenerationParams(do_sample=True), _seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_global_one_is_used():
    logits = torch.zeros(64, 300)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = draw(logits)
        torch.manual_seed(3)
        assert torch.equal(first, draw(logits))


def test_one_generator_a_row_draws_as_the_row_does_alone():
    logits = torch.randn(5, 300, generator=_seeded(1))
    together = draw(logits, [_seeded(i) for i in range(5)])
    alone = torch.cat([draw(logits[i : i + 1], _seeded(i)) for i in range(5)])
    assert torch.equal(together, alone)


def test_the_wrong_number_of_generators_is_an_error():
    with pytest.raises(OLMoInputError, match="2 generators for 5 rows"):
        draw(torch.zeros(5, 3), [_seeded(0), _seeded(1)])


def test_forbidden_tokens_are_never_drawn():
    logits = torch.full((N_DRAWS, 7), -torch.inf)
    logits[:, [2, 4]] = 0.0
    assert set(draw(logits, _seeded(0)).tolist()) == {2, 4}


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_meet_possible_tokens(monkeypatch, extreme):
    logits = torch.full((1, 9), -torch.inf)
    logits[:, 3:6] = torch.tensor([0.1, 0.2, 0.3])
    monkeypatch.setattr(sampling, "_uniform", lambda n, g, like: torch.full((n, 1), extreme, dtype=like.dtype))
    assert draw(logits).item() == (3 if extreme == 0 else 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 7, 64, 300])
def test_candidates_are_those_of_a_stable_sort(dtype, k):
    # Rounded so that many are equal, of both signs, with both zeros and -inf among them.
    logits = (torch.randn(20, 300, generator=_seeded(2)) * 3).round().to(dtype)
    logits[:, 5:9] = -torch.inf
    logits[:, 11], logits[:, 12] = 0.0, -0.0
    values, ids = top_k_candidates(logits, k)
    expected_values, expected_ids = logits.float().sort(dim=-1, descending=True, stable=True)
    assert torch.equal(ids, expected_ids[:, :k])
    assert torch.equal(values, expected_values[:, :k])


def test_equal_tokens_enter_the_nucleus_by_id():
    values, ids = top_p_candidates(torch.zeros(1, 8), 0.5)
    assert ids[values > -torch.inf].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("spread", [0.1, 3.0])  # a nucleus larger than the guess, and one within it
def test_the_nucleus_does_not_depend_on_the_guess(monkeypatch, spread):
    logits = torch.randn(3, 200, generator=_seeded(4)) * spread
    values, ids = top_p_candidates(logits, 0.8)
    kept = [set(i[v > -torch.inf].tolist()) for v, i in zip(values, ids, strict=True)]
    monkeypatch.setattr(sampling, "_NUCLEUS_GUESS", 30)
    values, ids = top_p_candidates(logits, 0.8)
    assert kept == [set(i[v > -torch.inf].tolist()) for v, i in zip(values, ids, strict=True)]


def test_the_nucleus_is_the_smallest_that_reaches_p():
    logits = torch.randn(30, 100, generator=_seeded(5)) * 2
    values, ids = top_p_candidates(logits, 0.9)
    probabilities = logits.double().softmax(-1).gather(-1, ids)
    n_kept = (values > -torch.inf).sum(-1)
    for row, n in enumerate(n_kept.tolist()):
        assert probabilities[row, :n].sum() >= 0.9 - 1e-6
        assert probabilities[row, : n - 1].sum() < 0.9


def test_half_precision_logits_are_drawn_in_single_precision():
    assert apply_temperature(torch.randn(2, 5).bfloat16(), 0.7).dtype == torch.float32

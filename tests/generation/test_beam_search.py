from __future__ import annotations

import pytest
import torch
from toy_steps import HashStep, best_sequence, hash_step, sequence_log_prob

from olmo.exceptions import OLMoInputError
from olmo.generation.beam_search import beam_search
from olmo.generation.decode import generate
from olmo.generation.params import GenerationParams


def _trimmed(ids: list[int], ends: tuple[int, ...]) -> list[int]:
    n_tokens = next((i + 1 for i, token_id in enumerate(ids) if token_id in ends), len(ids))
    return ids[:n_tokens]


@pytest.mark.parametrize("length_penalty", [-1.5, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("ends", [(), (0,), (1, 3)])
@pytest.mark.parametrize("minimum", [0, 2])
def test_enough_beams_find_the_exhaustive_optimum(length_penalty, ends, minimum):
    n_steps, vocab_size, n_rows = 3, 4, 5
    step = hash_step(n_rows, vocab_size, seed=11)
    start = HashStep(step.table, step.state)
    params = GenerationParams(
        max_new_tokens=n_steps,
        min_new_tokens=minimum,
        num_beams=vocab_size**n_steps,
        eos_token_ids=ends,
        length_penalty=length_penalty,
        output_scores=True,
    )
    result = beam_search(step, step.first_logits(), params)
    assert result.scores.shape == (n_rows,)
    for row in range(n_rows):
        ids, score = best_sequence(start, row, n_steps, ends, length_penalty, minimum)
        assert _trimmed(result.token_ids[row].tolist(), ends) == ids
        assert result.scores[row].item() == pytest.approx(score, abs=1e-5)


def test_four_beams_beat_greedy_where_greedy_is_trapped():
    # Token 1 looks best at first (0.5), then everything is equally unlikely; token 2 (0.4) goes on for certain.
    table = torch.full((97, 6), 0.0)
    step = HashStep(table, torch.tensor([0]))
    table[0] = torch.tensor([0.02, 0.5, 0.4, 0.03, 0.03, 0.02]).log()
    table[3] = torch.tensor([0.001, 0.995, 0.001, 0.001, 0.001, 0.001]).log()  # the state after token 2
    greedy, beams = (
        generate(
            HashStep(table, torch.tensor([0])),
            step.first_logits(),
            GenerationParams(max_new_tokens=2, num_beams=n, output_scores=True, length_penalty=0.0),
        )
        for n in (1, 4)
    )
    assert greedy.token_ids[0, 0] == 1
    assert beams.token_ids.tolist() == [[2, 1]]
    assert beams.scores.item() > greedy.scores.sum().item()


def test_four_beams_score_no_less_than_greedy_on_random_models():
    better = 0
    for seed in range(30):
        step = hash_step(4, 12, seed=seed, spread=1.0)
        start = HashStep(step.table, step.state)
        params = GenerationParams(max_new_tokens=6, num_beams=4, output_scores=True, length_penalty=0.0)
        beams = generate(step, step.first_logits(), params)
        greedy = generate(
            HashStep(start.table, start.state), start.first_logits(), GenerationParams(max_new_tokens=6)
        ).token_ids
        for row in range(4):
            score = sequence_log_prob(start, row, greedy[row].tolist())
            assert beams.scores[row].item() == pytest.approx(
                sequence_log_prob(start, row, beams.token_ids[row].tolist()), abs=1e-5
            )
            better += beams.scores[row].item() > score + 1e-6
    assert better > 60  # of 120


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
def test_one_beam_equals_greedy(length_penalty, repetition_penalty):
    params = GenerationParams(
        max_new_tokens=15,
        min_new_tokens=2,
        eos_token_ids=(2, 7),
        pad_token_id=-1,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
    )
    first, second = hash_step(40, 15), hash_step(40, 15)
    first.table, second.table = first.table.round(), second.table.round()  # with ties
    expected = generate(first, first.first_logits(), params).token_ids
    assert torch.equal(beam_search(second, second.first_logits(), params).token_ids, expected)


@pytest.mark.parametrize("length_penalty", [-1.0, 0.5, 1.0])
def test_batched_equals_one_by_one(length_penalty):
    params = GenerationParams(
        max_new_tokens=10,
        num_beams=3,
        eos_token_ids=(1, 4),
        pad_token_id=0,
        length_penalty=length_penalty,
        repetition_penalty=1.2,
        output_scores=True,
    )
    prompt_ids = torch.randint(10, (8, 5), generator=torch.Generator().manual_seed(1))
    step = hash_step(8, 10, seed=3)
    starts = step.state
    together = beam_search(step, step.first_logits(), params, prompt_ids=prompt_ids)
    lengths = set()
    for row in range(8):
        alone_step = HashStep(step.table, starts[row : row + 1])
        alone = beam_search(alone_step, alone_step.first_logits(), params, prompt_ids=prompt_ids[row : row + 1])
        n_tokens = alone.token_ids.shape[1]
        lengths.add(n_tokens)
        assert torch.equal(together.token_ids[row, :n_tokens], alone.token_ids[0])
        assert (together.token_ids[row, n_tokens:] == 0).all()
        assert together.scores[row].item() == pytest.approx(alone.scores.item())
    assert together.token_ids.shape[1] == max(lengths)


def test_the_step_runs_all_beams_and_stops_early():
    table = torch.full((97, 5), 0.0)
    table[:, 4] = 9.0  # the end is nearly certain
    step = HashStep(table, torch.tensor([0, 5]))
    params = GenerationParams(max_new_tokens=50, num_beams=3, eos_token_ids=4, length_penalty=0.0, output_scores=True)
    result = beam_search(step, step.first_logits(), params)
    assert result.token_ids.tolist() == [[4], [4]]
    assert step.n_calls == 0  # a live beam is already below the finished one, and can only fall


@pytest.mark.parametrize(("length_penalty", "n_tokens"), [(0.0, 1), (1.0, 20)])
def test_length_penalty_decides_between_short_and_long(length_penalty, n_tokens):
    table = torch.full((97, 3), -20.0)
    table[:, 0], table[:, 1] = 1.0, 0.9  # 0 ends; 1 goes on
    step = HashStep(table, torch.tensor([0]))
    table[1:, 1] = 8.0  # after the first token, going on is nearly certain
    params = GenerationParams(max_new_tokens=20, num_beams=2, eos_token_ids=0, length_penalty=length_penalty)
    assert beam_search(step, step.first_logits(), params).token_ids.shape[1] == n_tokens


@pytest.mark.parametrize("vocab_size", [2, 3])
def test_a_vocabulary_smaller_than_the_beams(vocab_size):
    step = hash_step(2, vocab_size)
    start = HashStep(step.table, step.state)
    params = GenerationParams(max_new_tokens=2, num_beams=20, eos_token_ids=1, output_scores=True)
    result = beam_search(step, step.first_logits(), params)
    for row in range(2):
        assert result.scores[row].item() == pytest.approx(best_sequence(start, row, 2, (1,), 1.0)[1], abs=1e-5)


def test_scores_come_only_when_asked_for():
    step = hash_step(2, 5)
    assert beam_search(step, step.first_logits(), GenerationParams(num_beams=2, max_new_tokens=3)).scores is None


def test_a_beam_ends_through_the_callback():
    step = hash_step(3, 8, seed=5)
    rows = []

    def is_stopped(row, ids):
        rows.append(row)
        return ids[-1] == 2

    params = GenerationParams(max_new_tokens=6, num_beams=3, length_penalty=0.0, pad_token_id=-1)
    ids = beam_search(step, step.first_logits(), params, is_stopped=is_stopped).token_ids
    # As an end id the token is picked by the same scores, so both ways end in the same place.
    other = hash_step(3, 8, seed=5)
    with_end = GenerationParams(max_new_tokens=6, num_beams=3, length_penalty=0.0, pad_token_id=-1, eos_token_ids=2)
    assert ids.tolist() == beam_search(other, other.first_logits(), with_end).token_ids.tolist()
    assert set(rows) <= {0, 1, 2}


def test_hooks_follow_their_beams():
    step = hash_step(2, 6, seed=8)

    def no_repeats(ids, logits):
        return logits.scatter(-1, ids, -torch.inf)

    params = GenerationParams(max_new_tokens=5, num_beams=4)
    ids = beam_search(step, step.first_logits(), params, logits_processors=[no_repeats]).token_ids
    assert all(len(set(row)) == 5 for row in ids.tolist())


def test_logits_that_turn_to_nan_are_reported():
    step = hash_step(1, 5)
    first = step.first_logits()
    step.table = torch.full_like(step.table, torch.nan)
    with pytest.raises(OLMoInputError, match="no sequence for row 0"):
        beam_search(step, first, GenerationParams(max_new_tokens=4, num_beams=2))

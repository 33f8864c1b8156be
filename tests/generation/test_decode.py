from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_steps import HashStep, ScriptStep, greedy_by_hand, hash_step, sequence_log_prob

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import decode_tokens, generate
from olmo.generation.params import GenerationParams


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_equals_the_argmax_loop_on_fifty_prompts():
    step = hash_step(50, 40)
    expected = [greedy_by_hand(step, row, 20) for row in range(50)]
    result = generate(step, step.first_logits(), GenerationParams(max_new_tokens=20))
    assert result.token_ids.tolist() == expected
    assert result.token_ids.dtype == torch.int64
    assert result.scores is None


def test_temperature_zero_and_tiny_equal_greedy_on_fifty_prompts():
    greedy = hash_step(50, 40)
    expected = generate(greedy, greedy.first_logits(), GenerationParams(max_new_tokens=20)).token_ids
    for temperature in (0.0, 1e-6):
        step = hash_step(50, 40)
        params = GenerationParams(max_new_tokens=20, do_sample=True, temperature=temperature)
        assert torch.equal(generate(step, step.first_logits(), params, generator=_seeded(1)).token_ids, expected)


def test_sampling_is_reproduced_by_its_seed():
    def run(seed):
        step = hash_step(8, 40)
        params = GenerationParams(max_new_tokens=20, do_sample=True, top_p=0.9, top_k=20, temperature=1.3)
        return generate(step, step.first_logits(), params, generator=_seeded(seed)).token_ids

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


@pytest.mark.parametrize("do_sample", [False, True])
def test_batched_equals_one_by_one(do_sample):
    params = GenerationParams(
        max_new_tokens=30, do_sample=do_sample, eos_token_ids=(3, 5), repetition_penalty=1.2, output_scores=True
    )
    prompt_ids = torch.randint(12, (9, 4), generator=_seeded(3))
    step = hash_step(9, 12)
    generators = [_seeded(i) for i in range(9)]
    together = generate(step, step.first_logits(), params, prompt_ids=prompt_ids, generator=generators)
    for row in range(9):
        alone_step = HashStep(step.table, hash_step(9, 12).state[row : row + 1])
        alone = generate(
            alone_step, alone_step.first_logits(), params, prompt_ids=prompt_ids[row : row + 1], generator=_seeded(row)
        )
        n_tokens = alone.token_ids.shape[1]
        assert torch.equal(together.token_ids[row, :n_tokens], alone.token_ids[0])
        assert (together.token_ids[row, n_tokens:] == 3).all()
        torch.testing.assert_close(together.scores[row, :n_tokens], alone.scores[0])


def test_rows_end_on_any_end_id_and_are_padded():
    step = ScriptStep([[1, 8, 2, 2, 2], [1, 1, 1, 9, 2], [1, 2, 3, 4, 5]], 10)
    params = GenerationParams(max_new_tokens=5, eos_token_ids=(8, 9), pad_token_id=0, output_scores=True)
    result = generate(step, step.first_logits(), params)
    assert result.token_ids.tolist() == [[1, 8, 0, 0, 0], [1, 1, 1, 9, 0], [1, 2, 3, 4, 5]]
    assert ((result.scores == 0) == (result.token_ids == 0)).all()


def test_decoding_stops_when_all_rows_have_ended():
    step = ScriptStep([[1, 8], [8]], 10)
    params = GenerationParams(max_new_tokens=50, eos_token_ids=8, pad_token_id=-1)
    assert generate(step, step.first_logits(), params).token_ids.tolist() == [[1, 8], [8, -1]]
    assert step.fed == [[1, 8]]


def test_the_last_token_is_not_fed_back():
    step = hash_step(2, 10)
    generate(step, step.first_logits(), GenerationParams(max_new_tokens=7))
    assert step.n_calls == 6


@pytest.mark.parametrize("minimum", [0, 1, 3, 6])
@pytest.mark.parametrize("do_sample", [False, True])
def test_no_end_before_the_minimum(minimum, do_sample):
    step = ScriptStep([[4], [7]], 10)
    params = GenerationParams(
        max_new_tokens=6, min_new_tokens=minimum, eos_token_ids=(4, 7), do_sample=do_sample, temperature=0.1
    )
    ids = generate(step, step.first_logits(), params, generator=_seeded(0)).token_ids
    held_back = min(minimum, 6)
    assert not torch.isin(ids[:, :held_back], torch.tensor([4, 7])).any()
    if minimum < 6:
        assert ids[:, held_back].tolist() == [4, 7]


def test_scores_are_log_probabilities_of_the_model_itself():
    step = hash_step(4, 15)
    start = hash_step(4, 15)
    params = GenerationParams(
        max_new_tokens=8, do_sample=True, temperature=0.6, top_k=5, repetition_penalty=1.5, output_scores=True
    )
    result = generate(step, step.first_logits(), params, generator=_seeded(0))
    assert result.scores.shape == result.token_ids.shape and result.scores.dtype == torch.float32
    for row in range(4):
        expected = sequence_log_prob(start, row, result.token_ids[row].tolist())
        assert result.scores[row].sum().item() == pytest.approx(expected, abs=1e-5)


def test_a_row_ends_through_the_callback_and_sees_only_its_own_tokens():
    step = ScriptStep([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], 10)
    calls = []

    def is_stopped(row, ids):
        calls.append((row, list(ids)))
        return ids[-1] in (2, 7)

    params = GenerationParams(max_new_tokens=4, pad_token_id=0)
    ids = generate(step, step.first_logits(), params, is_stopped=is_stopped).token_ids
    assert ids.tolist() == [[1, 2, 0, 0], [5, 6, 7, 0], [9, 9, 9, 9]]
    assert [c for c in calls if c[0] == 0] == [(0, [1]), (0, [1, 2])]
    assert [c for c in calls if c[0] == 1] == [(1, [5]), (1, [5, 6]), (1, [5, 6, 7])]


def test_tokens_come_one_at_a_time():
    step = ScriptStep([[1, 2, 8], [1, 8]], 10)
    tokens = decode_tokens(step, step.first_logits(), GenerationParams(eos_token_ids=8, pad_token_id=0))
    first = next(tokens)
    assert first.token_ids.tolist() == [1, 1] and first.log_probs is None and step.fed == []
    second, third = tokens
    assert second.is_finished.tolist() == [False, True]
    assert third.token_ids.tolist() == [8, 0] and third.is_finished.tolist() == [True, True]


class _LargeOperations(TorchDispatchMode):
    """Counts operations on tensors of at least a given size, by name."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(a, torch.Tensor) and a.numel() >= self.size for a in args):
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_plain_greedy_does_one_argmax_a_token_and_nothing_else_over_the_vocabulary():
    vocab_size, n_tokens = 1000, 20
    logits = torch.randn(2, vocab_size, generator=_seeded(0))

    class ConstantStep:
        def __call__(self, token_ids):
            return logits

        def reorder(self, rows):
            raise AssertionError("no row moves")

    params = GenerationParams(max_new_tokens=n_tokens, eos_token_ids=(int(logits.argmin()) % vocab_size, 7))
    tokens = decode_tokens(ConstantStep(), logits, params)
    with _LargeOperations(vocab_size) as large:
        assert len(list(tokens)) == n_tokens
    assert large.counts == {"argmax": n_tokens}


def test_no_graph_is_kept():
    step = hash_step(2, 10)
    step.table.requires_grad_()
    params = GenerationParams(max_new_tokens=3, output_scores=True)
    assert not generate(step, step.first_logits(), params).scores.requires_grad
    assert torch.is_grad_enabled()


def test_a_pad_outside_the_vocabulary_is_no_trouble():
    step = ScriptStep([[8], [1]], 10)
    params = GenerationParams(max_new_tokens=3, eos_token_ids=8, pad_token_id=99, repetition_penalty=1.1)
    assert generate(step, step.first_logits(), params).token_ids[0].tolist() == [8, 99, 99]


@pytest.mark.parametrize(
    ("logits", "settings", "prompt", "message"),
    [
        (torch.zeros(5), {}, None, r"shape \[5\].*\[rows, vocabulary\]"),
        (torch.zeros(0, 5), {}, None, r"shape \[0, 5\]"),
        (torch.zeros(2, 5), {"eos_token_ids": (1, 5)}, None, r"\[5\] can never be generated.*0 to 4"),
        (torch.zeros(2, 5), {}, torch.zeros(3, 4), r"shape \[3, 4\].*\[2, length\]"),
        (torch.zeros(2, 5), {"stop_strings": "END"}, None, r"stop_strings=\('END',\) need a tokenizer"),
        (torch.full((1, 5), torch.nan), {}, None, "are NaN"),
    ],
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_wrong_start_is_refused(logits, settings, prompt, message, num_beams):
    with pytest.raises(OLMoInputError, match=message):
        generate(hash_step(1, 5), logits, GenerationParams(num_beams=num_beams, **settings), prompt_ids=prompt)


def test_beams_cannot_be_streamed_and_the_error_comes_at_once():
    with pytest.raises(OLMoInputError, match="num_beams=2 cannot be decoded token by token"):
        decode_tokens(hash_step(1, 5), torch.zeros(1, 5), GenerationParams(num_beams=2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings",
    [{}, {"do_sample": True, "top_k": 20}, {"do_sample": True, "top_p": 0.9}, {"num_beams": 3}],
)
def test_a_cuda_device_gives_the_tokens_of_the_cpu(settings):
    params = GenerationParams(
        max_new_tokens=20,
        min_new_tokens=2,
        eos_token_ids=(3, 5),
        repetition_penalty=1.2,
        output_scores=True,
        **settings,
    )
    results = []
    for device in ("cpu", "cuda"):
        step = hash_step(6, 40)
        step.table, step.state = step.table.to(device), step.state.to(device)
        results.append(
            generate(
                step, step.first_logits(), params, generator=_seeded(0), is_stopped=lambda row, ids: ids[-2:] == [9, 9]
            )
        )
    assert torch.equal(results[0].token_ids, results[1].token_ids.cpu())
    torch.testing.assert_close(results[0].scores, results[1].scores.cpu())

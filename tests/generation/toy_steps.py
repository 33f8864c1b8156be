"""Models of a few numbers that follow the step protocol. Their logits are known, so every answer can be worked out."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


class HashStep:
    """Next-token logits depend on a hash of the whole prefix: a cache row mixed up shows at once.

    Args:
        table: logits [M, V], one row per hash value.
        starts: hash of each row's prompt, int64 [B].
    """

    def __init__(self, table: Tensor, starts: Tensor) -> None:
        self.table = table
        self.state = starts.clone()
        self.n_calls = 0
        self.rows_seen: list[int] = []

    def first_logits(self) -> Tensor:
        return self.table[self.state]

    def __call__(self, token_ids: Tensor) -> Tensor:
        assert token_ids.shape == self.state.shape
        self.n_calls += 1
        self.rows_seen.append(len(token_ids))
        self.state = (self.state * 31 + token_ids + 1) % len(self.table)
        return self.table[self.state]

    def reorder(self, rows: Tensor) -> None:
        self.state = self.state[rows]


def hash_step(n_rows: int, vocab_size: int, seed: int = 0, spread: float = 2.0, n_states: int = 97) -> HashStep:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(n_states, vocab_size, generator=generator) * spread
    return HashStep(table, torch.randint(n_states, (n_rows,), generator=generator))


class ScriptStep:
    """Each row wants a fixed sequence of tokens, whatever it is fed; the last one repeats.

    The logit is 6 for the wanted token and 1 for the others.
    """

    def __init__(self, scripts: list[list[int]], vocab_size: int) -> None:
        self.scripts = scripts
        self.vocab_size = vocab_size
        self.position = 0
        self.fed: list[list[int]] = []

    def first_logits(self) -> Tensor:
        wanted = torch.tensor([script[min(self.position, len(script) - 1)] for script in self.scripts])
        return torch.nn.functional.one_hot(wanted, self.vocab_size).float() * 5 + 1

    def __call__(self, token_ids: Tensor) -> Tensor:
        self.fed.append(token_ids.tolist())
        self.position += 1
        return self.first_logits()

    def reorder(self, rows: Tensor) -> None:
        self.scripts = [self.scripts[i] for i in rows.tolist()]


def greedy_by_hand(step: HashStep, row: int, n_tokens: int, ends: tuple[int, ...] = ()) -> list[int]:
    """The argmax loop, one row, written out on its own."""
    state, ids = int(step.state[row]), []
    while len(ids) < n_tokens:
        ids.append(int(step.table[state].argmax()))
        if ids[-1] in ends:
            break
        state = (state * 31 + ids[-1] + 1) % len(step.table)
    return ids


def sequence_log_prob(step: HashStep, row: int, ids: list[int]) -> float:
    """Sum of the log-probabilities of a sequence after the row's prompt, float64."""
    log_probs = step.table.double().log_softmax(-1)
    state, total = int(step.state[row]), 0.0
    for token_id in ids:
        total += float(log_probs[state, token_id])
        state = (state * 31 + token_id + 1) % len(step.table)
    return total


def best_sequence(
    step: HashStep, row: int, n_tokens: int, ends: tuple[int, ...], length_penalty: float, min_tokens: int = 0
) -> tuple[list[int], float]:
    """The best sequence by trying them all, and its score."""
    vocab_size = step.table.shape[1]
    inner = [i for i in range(vocab_size) if i not in ends]
    finished = [
        [*body, end] for n in range(min_tokens, n_tokens) for body in itertools.product(inner, repeat=n) for end in ends
    ]
    unfinished = [list(body) for body in itertools.product(inner, repeat=n_tokens)]
    scored = [(sequence_log_prob(step, row, ids) / len(ids) ** length_penalty, ids) for ids in finished + unfinished]
    score, ids = max(scored)
    return ids, score

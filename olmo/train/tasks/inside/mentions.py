"""Finds what the words of questions name, among tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from olmo.tokenizer import Tokenizer
from olmo.train.tasks.inside.facets import MENTIONED, SUBJECT, UNKNOWN


@dataclass(frozen=True)
class Known:
    """Words, and what is known of what they mean.

    Attributes:
        text: the words, as they stand after a space.
        classes: one for each of `MENTIONED`.
        is_name: whether they name a thing.
    """

    text: str
    classes: Sequence[int]
    is_name: bool = False


@dataclass(frozen=True)
class Mentions:
    """What was found.

    Attributes:
        classes: int64 `[L, facets]`, on the last token of each mention outside of answers; `UNKNOWN` elsewhere.
        names: `[L]` the first token of the name that ends at a token; `UNKNOWN` where none does.
        questions: the tokens of each question that an answer follows, in order.
    """

    classes: torch.Tensor
    names: Sequence[int]
    questions: Sequence[range]

    def named(self, question: range) -> list[int]:
        """Places of the names in a question, in order."""
        return [i for i in question if self.names[i] != UNKNOWN]


class MentionFinder:
    """Looks for words among tokens.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """Tokens of words that stand after a space; they are made once."""
        if text not in self._tokens:
            self._tokens[text] = self.tokenizer.encode(f" {text}")
        return self._tokens[text]

    def find(self, known: Iterable[Known], input_ids: Sequence[int], is_answer: Sequence[bool]) -> Mentions:
        """Where the words stand; of two that end at the same token the longer are meant.

        The last token of a question that names one thing, however often, gets that as its `subject`.

        Args:
            known: words to look for.
            input_ids: `[L]` tokens.
            is_answer: `[L]` whether a token is one that the model has to write.
        """
        ids = list(input_ids)
        places: dict[int, list[int]] = {}
        for i, token in enumerate(ids):
            places.setdefault(token, []).append(i)
        found = torch.full((len(ids), len(MENTIONED)), UNKNOWN)
        names, length = [UNKNOWN] * len(ids), [0] * len(ids)
        for one in known:
            tokens = self.tokens(one.text)
            for start in places.get(tokens[0], ()):
                end = start + len(tokens) - 1
                if ids[start : end + 1] == tokens and len(tokens) > length[end] and not is_answer[end]:
                    length[end], found[end] = len(tokens), torch.tensor(one.classes)
                    names[end] = tokens[0] if one.is_name else UNKNOWN
        mentions = Mentions(found, names, list(_questions(is_answer)))
        for question in mentions.questions:
            subjects = {names[i] for i in mentions.named(question)}
            if len(subjects) == 1:
                found[question[-1], MENTIONED.index(SUBJECT)] = subjects.pop()
        return mentions


def _questions(is_answer: Sequence[bool]) -> Iterator[range]:
    """Tokens of each question: a run without an answer that has one after it."""
    start = 0
    for i, answers in enumerate(is_answer):
        if answers:
            if start < i:
                yield range(start, i)
            start = i + 1

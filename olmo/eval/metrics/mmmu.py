"""Answers out of reasoning, as the MMMU benchmark reads them: the last letter named, or the ends of sentences.

Source: X. Yue et al., "MMMU", 2024, and the parser published with it. One thing differs: where that parser finds no
letter it draws one at random; here the answer is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_EDGE = ",.!?;:'"
_MANY_WORDS = 5
_SIGNS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands before an answer in a sentence."""
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")

Value = str | float


def last_choice(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text names last: as `(B)`, else as a lone `B`, else, in a long text, by its words.

    Args:
        text: what the model wrote.
        options: texts of the options, in the order they were shown.
    """
    for mark in _EDGE:
        text = text.strip(mark)
    text = f" {text} "
    letters = [chr(ord("A") + i) for i in range(len(options))]
    for form in ("({})", " {} "):
        places = [text.rfind(form.format(letter)) for letter in letters]
        if max(places, default=-1) >= 0:
            return places.index(max(places))
    if len(text.split()) > _MANY_WORDS:
        places = [text.lower().rfind(option.lower()) for option in options]
        if max(places, default=-1) >= 0:
            return places.index(max(places))
    return None


def open_answer(text: str, answers: Sequence[str]) -> float:
    """1 where one of `answers` stands in the ends of the text's sentences, or is one of the numbers there, else 0."""
    truth = {value for answer in answers for value in _values(answer)}
    for candidate in _candidates(text):
        if isinstance(candidate, float):
            if candidate in truth:
                return 1.0
        elif any(isinstance(t, str) and t in candidate for t in truth):
            return 1.0
    return 0.0


def _candidates(text: str) -> list[Value]:
    """What a text may have meant as its answer: the ends of its sentences, and the numbers in them."""
    # Lower case comes first, as in the published parser: a full stop then never parts two sentences, only a new line.
    whole = text.strip().strip(".").lower()
    sentences = _SENTENCE.split(whole)
    ends = []
    for i, sentence in enumerate(sentences):
        signs = (*_SIGNS, "=") if i == len(sentences) - 1 else _SIGNS
        behind = [sentence.split(sign)[-1].strip() for sign in signs if sign in sentence]
        shortest = min((end for end in behind if end), key=len, default="")
        if shortest and shortest not in _EDGE:
            ends.append(shortest)
    ends = ends or [whole]
    numbers = [number for end in ends for pattern in _NUMBERS for number in pattern.findall(end)]
    return [value for part in (*ends, *numbers) for value in _values(part)]


def _values(text: str) -> list[Value]:
    """A number to two decimals, or text in lower case; a letter keeps a blank beside it, or it would be anywhere."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]

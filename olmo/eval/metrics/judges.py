"""Judges of captions: one that asks a language model of your choice, and one that counts words, for tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_SENTENCE = re.compile(r"[.!?]+(?:\s+|$)|\n+")
_WORD = re.compile(r"[a-z0-9]+")
_LISTED = re.compile(r"^\s*\d+[.):]\s*(.+?)\s*$", re.MULTILINE)
_SMALL_WORDS = "a an the of on in at to and or is are was were with there it its this that by for"
_ENOUGH = 0.6


class WordJudge:
    """Sentences are statements; one agrees when most of its words occur. No measure of quality: for tests and demos."""

    def statements(self, text: str) -> list[str]:
        """The sentences of a text."""
        return [sentence.strip() for sentence in _SENTENCE.split(text) if _words(sentence)]

    def agreements(self, statements: Sequence[str], texts: Sequence[str]) -> list[bool | None]:
        """Whether at least six tenths of a statement's words occur in the texts; small words do not count."""
        known = {word for text in texts for word in _words(text)}
        return [len(_words(s) & known) / len(_words(s)) >= _ENOUGH if _words(s) else None for s in statements]


class AskingJudge:
    """Puts the questions of cap-F1 to a language model.

    Args:
        ask: takes a prompt and returns the model's reply; called twice or more for each text. Decode greedily, and keep
            replies by prompt if they cost money.
    """

    def __init__(self, ask: Callable[[str], str]) -> None:
        self.ask = ask

    def statements(self, text: str) -> list[str]:
        """The statements that the model lists."""
        if not text.strip():
            return []
        reply = self.ask(
            "Read this description of a picture and list every fact it states about the picture, one a line, numbered "
            "(1. ..., 2. ...). Split facts as far as you can, repeat none, and add nothing of your own. Write the list "
            f"only.\n\nDescription:\n{text.strip()}"
        )
        return _LISTED.findall(reply)

    def agreements(self, statements: Sequence[str], texts: Sequence[str]) -> list[bool | None]:
        """The model's verdicts; None where it says that it cannot tell, or gives none."""
        if not statements:
            return []
        listed = "\n".join(f"{i}. {statement}" for i, statement in enumerate(statements, start=1))
        given = "\n\n".join(text.strip() for text in texts) or "(nothing)"
        reply = self.ask(
            "Below are descriptions of one picture, and numbered statements about it. For each statement write its "
            "number and one word: yes if the descriptions state or clearly imply it, no if they do not or contradict "
            "it, unclear only if nobody could tell. Write nothing else.\n\n"
            f"Descriptions:\n{given}\n\nStatements:\n{listed}"
        )
        verdicts = {int(n): word.lower() for n, word in re.findall(r"(\d+)[.):\s]+(yes|no|unclear)\b", reply, re.I)}
        return [{"yes": True, "no": False}.get(verdicts.get(i, "")) for i in range(1, len(statements) + 1)]


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - set(_SMALL_WORDS.split())

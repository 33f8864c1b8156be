"""Which option a model chose in a multiple-choice question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from olmo.eval.metrics.short_answer import edit_distance, short_answer

_LETTER = re.compile(r"(?:option\s+)?\(?([A-Z])(?:[).:]|$)", re.IGNORECASE)


def choose_option(prediction: str, options: Sequence[str]) -> int | None:
    """Index of the option that a text names without doubt.

    In this order: the text of an option, a letter (`B`, `(b)`, `B.`, `B: a cat`), the only option that the answer is a
    part of, the only option that is a part of the answer. Case does not matter.

    Args:
        prediction: what the model wrote; the short answer in it counts.
        options: texts of the options, in the order they were shown.

    Returns:
        The index, or None where the text names none, or several.
    """
    found, shown = short_answer(prediction).lower(), [option.strip().lower() for option in options]
    if not found:
        return None
    if shown.count(found.rstrip(".")) == 1:
        return shown.index(found.rstrip("."))
    letter = _LETTER.match(found)
    if letter and (index := ord(letter.group(1)) - ord("a")) < len(shown):
        return index
    for is_named in (lambda option: _is_part(found, option), lambda option: _is_part(option, found)):
        named = [i for i, option in enumerate(shown) if option and is_named(option)]
        if len(named) == 1:
            return named[0]
    return None


def nearest_option(prediction: str, options: Sequence[str]) -> int:
    """Index of the option meant, or where none is named without doubt, of the one of most similar spelling.

    The evaluation of the released models always takes an answer this way; the first of equals wins.
    """
    chosen = choose_option(prediction, options)
    if chosen is not None:
        return chosen
    found = short_answer(prediction).lower()
    distances = [edit_distance(option.strip().lower(), found) for option in options]
    return distances.index(min(distances))


def _is_part(part: str, text: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None

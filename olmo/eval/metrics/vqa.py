"""VQA accuracy with the official normalisation of answers.

Source: S. Antol et al., "VQA: Visual Question Answering", 2015, and the evaluation published with VQA v2. Its rules are
kept to the letter, also where they are odd, because published numbers were made with them: punctuation is dropped or
becomes a blank depending on the whole text, and a period stays before a digit. The apostrophes that its table puts back
follow from the contractions below, but for the few in `_ODD`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from olmo.eval.metrics.short_answer import short_answer

ENOUGH_PEOPLE = 3
"""People who must have given an answer for it to count in full."""

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(n) for n, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_DIGIT_COMMA = re.compile(r"\d,\d")
_MOST_PERIODS = 32  # the official code passes a flag where the number of replacements goes

_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll "
    "somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd "
    "there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_ODD = {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}


def _with_one_missing(word: str) -> list[str]:
    """Spellings of a contraction in which one apostrophe is missing."""
    return [word[:i] + word[i + 1 :] for i, character in enumerate(word) if character == "'"]


_APOSTROPHES = {spelling: word for word in _CONTRACTIONS.split() for spelling in _with_one_missing(word)} | _ODD


def normalise_answer(answer: str) -> str:
    """An answer in the form in which the official evaluation compares.

    Lower case, digits for number words up to ten, no articles, little punctuation, apostrophes put back.
    """
    text = re.sub(r"[\n\t]", " ", answer).strip().lower()
    drops_all = _DIGIT_COMMA.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        is_at_word = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if is_at_word or drops_all else " ")
    cleaned = _PERIOD.sub("", cleaned, count=_MOST_PERIODS)
    words = [_DIGITS.get(word, word) for word in cleaned.split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official accuracy: the mean over all ways to leave one person out of min(others who agree / 3, 1).

    Args:
        prediction: what the model wrote; the short answer in it counts.
        answers: one for each person asked, 10 in the published sets. With fewer than 4, all others must agree, and a
            single one must be met.
    """
    found, given = normalise_answer(short_answer(prediction)), [normalise_answer(a) for a in answers]
    n_agree, n = given.count(found), len(given)
    if n < 2:
        return float(n_agree)
    enough = min(ENOUGH_PEOPLE, n - 1)
    without_one_of_them, without_another = min((n_agree - 1) / enough, 1), min(n_agree / enough, 1)
    return (n_agree * without_one_of_them + (n - n_agree) * without_another) / n


def vqa_accuracy_of_three(prediction: str, answers: Sequence[str]) -> float:
    """min(people who agree / 3, 1), as the Molmo paper counts on validation sets; with fewer people, all must agree."""
    found, given = normalise_answer(short_answer(prediction)), [normalise_answer(a) for a in answers]
    return min(given.count(found) / min(ENOUGH_PEOPLE, max(len(given), 1)), 1.0)


def a_okvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """As `vqa_accuracy_of_three` without any normalisation but case. Source: A-OKVQA direct answers."""
    found = short_answer(prediction).lower().strip()
    return min(sum(found == a.lower().strip() for a in answers) / ENOUGH_PEOPLE, 1.0)

"""What there is to know of a token that shows a thing, or names one."""

from __future__ import annotations

from dataclasses import dataclass

from olmo.data.scenes.moving.actors import PHRASES, Action

UNKNOWN = -100
"""Where a token shows or names nothing, or nothing can be said of it."""

N_BINS = 8
"""Parts a side that places are told apart by."""

MAX_COUNT = 10
"""More of a kind than that are not told apart."""


@dataclass(frozen=True)
class Facet:
    """One thing to know about what a token shows or names."""

    name: str
    n_classes: int
    is_place: bool = False
    """Whether it is a place at the beginning or the end, from which the rest follows."""

    words: tuple[str, ...] = ()
    """The word of each class in answers; none where answers say it in no one word."""

    is_name: bool = False
    """Whether the class is the first token of a name."""


ACTION = Facet("action", len(Action), words=tuple(PHRASES[action].split()[-1] for action in Action))
ORDER = Facet("order", 4)
HALF = Facet("half", 2, words=("first", "second"))
COUNT = Facet("count", MAX_COUNT + 1)
COUNT_FIRST = Facet("count_first", MAX_COUNT + 1)
COUNT_LAST = Facet("count_last", MAX_COUNT + 1)
ACROSS = Facet("across", N_BINS)
ALONG = Facet("along", N_BINS)
ACTOR = Facet("actor", 0, is_name=True)
RELATION = Facet("relation", 2, words=("before", "after"))
EARLIER = Facet("earlier", 0, is_name=True)
SIDE = Facet("side", 4, words=("left", "right", "above", "below"))
SUBJECT = Facet("subject", 0, is_name=True)

SHOWN = (
    *(Facet(name, N_BINS + 1, is_place=True) for name in ("first_x", "first_y", "last_x", "last_y")),
    ACTION,
    ORDER,
    HALF,
)
"""Of a token that shows a thing of a clip: where that is at the beginning and at the end, what it does, as which event,
in which half. Places have a class more, the last, for a thing that is not there."""

MENTIONED = (
    ACTION,
    ORDER,
    HALF,
    COUNT,
    COUNT_FIRST,
    COUNT_LAST,
    ACROSS,
    ALONG,
    ACTOR,
    RELATION,
    EARLIER,
    SIDE,
    SUBJECT,
)
"""Of the words of a question. A name in a question about a clip: what the thing does, as which event, in which half,
and how many there are at first and at last; where another thing was named before it, whether that acts before or after
this one, and the first token of the name of the earlier of both. In one about a picture: how many there are, where the
only one is, and for the second of two on which side the answer sees the thing asked about. Words that stand for one
thing (an action, the first event, the far left): the first token of its name. The last token before an answer: the
first token of the one name in its question."""

COMPARED = (RELATION, EARLIER, SIDE)
"""What follows from knowing of two things."""


def classes(**known: int) -> list[int]:
    """A class for each of `MENTIONED`, by name; `UNKNOWN` for those that are not given."""
    unlike = known.keys() - {facet.name for facet in MENTIONED}
    assert not unlike, f"no facet is called {sorted(unlike)}"
    return [known.get(facet.name, UNKNOWN) for facet in MENTIONED]

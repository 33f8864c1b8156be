"""Reading a time of day out of an answer. Source: the clock evaluation of the Molmo paper; twelve hours, no seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from olmo.exceptions import OLMoInputError

CLOSE_MINUTES = 1
"""A time this many minutes off is still close."""

_TIME = re.compile(r"(?<!\d)(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?(?!\d)")
_HALF_DAY = 12 * 60


@dataclass(frozen=True)
class ClockTime:
    """What a clock with hands shows.

    Attributes:
        hour: 0 to 11; 12 o'clock is 0.
        minute: 0 to 59.
    """

    hour: int
    minute: int

    @property
    def minutes(self) -> int:
        """Minutes since 12 o'clock."""
        return self.hour * 60 + self.minute


def read_clock(text: str) -> ClockTime | None:
    """The first time written as `h:mm` or `h:mm:ss`, on a clock of twelve hours; None where there is none."""
    found = _TIME.search(text)
    if found is None:
        return None
    hour, minute = int(found.group(1)), int(found.group(2))
    if hour > 24 or minute > 60:
        return None
    return ClockTime(hour % 12, minute % 60)


def clock_scores(prediction: str, truth: str) -> dict[str, float]:
    """How right a time is.

    Args:
        prediction: what the model wrote.
        truth: the time as `h:mm`, or "" where the picture shows none and the model should not name one.

    Returns:
        For a time `hour`, `minute`, `exact` and `close` (at most a minute off, around the dial too), each 0 or 1;
        without one `declined` and, equal to it, `exact` and `close`.
    """
    found = read_clock(prediction)
    if not truth:
        declined = float(found is None)
        return {"exact": declined, "close": declined, "declined": declined}
    expected = read_clock(truth)
    if expected is None:
        raise OLMoInputError(f"the right time {truth!r} is not written as h:mm")
    if found is None:
        return dict.fromkeys(("exact", "close", "hour", "minute"), 0.0)
    apart = abs(found.minutes - expected.minutes)
    return {
        "exact": float(found == expected),
        "close": float(min(apart, _HALF_DAY - apart) <= CLOSE_MINUTES),
        "hour": float(found.hour == expected.hour),
        "minute": float(found.minute == expected.minute),
    }

"""Going through a source for rows that cannot be used, before a run meets them.

What makes a row bad is for the caller to say: this module is handed the check, and counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from olmo.data.source import Source
from olmo.exceptions import OLMoInputError


class BadRow(NamedTuple):
    """A row that cannot be used: where it is, and why."""

    place: str
    reason: str


@dataclass
class CheckReport:
    """What a look through a source came to.

    Attributes:
        name: name of the source.
        n_rows: rows looked at.
        n_conversations: conversations in the good ones.
        n_repeated: rows that say just what an earlier one said.
        styles: conversations by style; "none" where a conversation has none.
        bad: rows that cannot be used.
    """

    name: str
    n_rows: int = 0
    n_conversations: int = 0
    n_repeated: int = 0
    styles: Counter[str] = field(default_factory=Counter)
    bad: list[BadRow] = field(default_factory=list)


def check_rows(
    source: Source,
    check: Callable[[Mapping[str, Any]], Iterable[str | None]],
    limit: int | None = None,
    on_row: Callable[[CheckReport], None] | None = None,
) -> CheckReport:
    """Look at each row of a source.

    Args:
        source: the rows.
        check: raises `OLMoInputError` for an example that cannot be used, and returns the style of each of its
            conversations; `olmo.preprocessing.example_check.check_example` does.
        limit: rows to look at, at most.
        on_row: called after each row with the report so far.

    Returns:
        The report.
    """
    report = CheckReport(source.name)
    seen: set[bytes] = set()
    for row in range(len(source) if limit is None else min(limit, len(source))):
        try:
            example = source[row]
            styles = list(check(example))
        except (OLMoInputError, OSError) as error:
            place = source.place(row)
            report.bad.append(BadRow(place, str(error).removeprefix(f"{place}: ")))
        else:
            report.n_conversations += len(styles)
            report.styles.update(style or "none" for style in styles)
            if (digest := _digest(example)) is not None:
                report.n_repeated += digest in seen
                seen.add(digest)
        report.n_rows += 1
        if on_row is not None:
            on_row(report)
    return report


def _digest(example: Mapping[str, Any]) -> bytes | None:
    """A short hash of what an example says, metadata aside; None where it holds more than plain values and bytes."""
    said = {k: v for k, v in example.items() if k != "metadata"}
    try:
        text = json.dumps(said, sort_keys=True, default=_hash_of_bytes)
    except TypeError:
        return None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _hash_of_bytes(value: Any) -> str:
    return hashlib.blake2b(value).hexdigest()

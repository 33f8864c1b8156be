"""Answers that should be JSON: is it JSON, and does it say the same?"""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


def read_json(text: str) -> Any:
    """The value a text holds, also inside a fenced block.

    Raises:
        ValueError: it is not JSON.
    """
    text = text.strip()
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced.group(1) if fenced else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_scores(prediction: str, truth: str) -> dict[str, float]:
    """How right a JSON answer is.

    Args:
        prediction: what the model wrote.
        truth: the right answer, JSON.

    Returns:
        `valid` (it is JSON), `exact` (equal as values; the order of keys does not matter) and `fields`: of the keys on
        either side the share with equal values, for objects; else the same as `exact`.
    """
    expected = read_json(truth)
    try:
        found = read_json(prediction)
    except ValueError:
        return {"valid": 0.0, "exact": 0.0, "fields": 0.0}
    exact = float(found == expected)
    if not isinstance(expected, dict) or not isinstance(found, dict) or not expected | found:
        return {"valid": 1.0, "exact": exact, "fields": exact}
    missing = object()
    keys = expected | found
    n_equal = sum(expected.get(key, missing) == found.get(key, missing) for key in keys)
    return {"valid": 1.0, "exact": exact, "fields": n_equal / len(keys)}

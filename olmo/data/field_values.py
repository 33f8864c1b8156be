"""From the values in a dataset's columns to the conversations of an example, as a field map says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from olmo.data.field_maps import ConversationFields, FieldMap, columns_of
from olmo.data.written_rows import messages_of_llava
from olmo.exceptions import OLMoInputError

_ANSWER_KEYS = ("answer", "raw_answer")
_CHOICE_SALT = 29
_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s+")


def conversation_of(
    fields: ConversationFields, values: Mapping[str, Any], row: int, epoch: int
) -> dict[str, Any] | None:
    """One conversation of a row; None where the row has nothing for it, as in a list of transcripts that is empty.

    Args:
        fields: which columns it is made of.
        values: the row, by column.
        row: number of the row, and
        epoch: number of the pass over the dataset: together they draw one of several answers.

    Raises:
        OLMoInputError: a value that is not what the column should hold.
    """
    record: dict[str, Any] = {} if fields.style is None else {"style": fields.style}
    for role in ("messages", "question", "label"):
        column = getattr(fields, role)
        if column is not None and values[column] is not None:
            record[role] = values[column]
    if _is_llava(record.get("messages")):
        record["messages"] = messages_of_llava(record["messages"])
    if fields.answer is not None:
        answer = _one_of(values[fields.answer], fields.answer, row, epoch)
        if answer is None and len(fields.columns) == 1:
            return None
        record["answer"] = answer
    answers = [text for column in columns_of(fields.answers) for text in _answers(values[column], column)]
    if answers:
        record["answers"] = answers
    if options := _options(fields.options, values):
        record["options"] = options
    if fields.answer_idx is not None:
        record["answer_idx"] = _index(values[fields.answer_idx], fields.answer_idx)
    if fields.answer_option is not None:
        record["answer_idx"] = _index_of(values[fields.answer_option], options, fields.answer_option)
    if fields.points is not None:
        record["points"] = _points(values[fields.points], fields.points)
        record["point_scale"] = fields.point_scale
    return {k: v for k, v in record.items() if v is not None}


def weight_of(fields: FieldMap, values: Mapping[str, Any]) -> float | None:
    """Loss weight of a row; None where the dataset says nothing of it.

    Raises:
        OLMoInputError: a value that no weight goes with.
    """
    if fields.weight is not None:
        return values[fields.weight]
    if fields.weight_of is None:
        return None
    column, weights = fields.weight_of
    if values[column] not in weights:
        raise OLMoInputError(
            f"column {column!r} is {values[column]!r}; weights are known for {', '.join(map(repr, weights))}"
        )
    return weights[values[column]]


def _one_of(given: Any, column: str, row: int, epoch: int) -> str | None:
    if not isinstance(given, list):
        return given if given is None or isinstance(given, str) else str(given)
    texts = [text for text in given if isinstance(text, str) and text.strip()]
    if not texts:
        if any(text is not None and not isinstance(text, str) for text in given):
            raise OLMoInputError(f"column {column!r} is a list of texts, got {given!r:.60}")
        return None
    return texts[int(np.random.default_rng([_CHOICE_SALT, row, epoch]).integers(len(texts)))]


def _answers(given: Any, column: str) -> list[str]:
    """Texts of the answers; [] where there are none, as in test splits."""
    answers = []
    for answer in given if isinstance(given, list) else [] if given is None else [given]:
        if isinstance(answer, Mapping):
            key = next((k for k in _ANSWER_KEYS if k in answer), None)
            if key is None:
                raise OLMoInputError(
                    f"records in column {column!r} hold the text under {' or '.join(map(repr, _ANSWER_KEYS))}, got "
                    f"{answer!r:.60}"
                )
            answer = answer[key]
        if answer is not None and answer != "":
            answers.append(str(answer))
    return answers


def _is_llava(messages: Any) -> bool:
    return isinstance(messages, list) and bool(messages) and isinstance(messages[0], Mapping) and "from" in messages[0]


def _options(columns: str | tuple[str, ...] | None, values: Mapping[str, Any]) -> list[str]:
    """The choices; letters that all of them begin with are taken off, for the prompt has its own."""
    if columns is None:
        return []
    given = (values[columns] or []) if isinstance(columns, str) else [values[c] for c in columns]
    options = [str(option) for option in given if option is not None]
    marks = [_LETTERED.match(option) for option in options]
    if all(mark is not None and mark.group(1) == chr(ord("A") + i) for i, mark in enumerate(marks)):
        return [option[mark.end() :].strip() for option, mark in zip(options, marks, strict=True) if mark is not None]
    return options


def _index_of(given: Any, options: Sequence[str], column: str) -> int | None:
    if given is None or given == "":
        return None
    if list(options).count(str(given)) != 1:
        raise OLMoInputError(f"column {column!r} is one of the choices {', '.join(options):.200}, got {given!r:.60}")
    return list(options).index(str(given))


def _index(given: Any, column: str) -> int | None:
    if given is None or given in (-1, "", "-1"):
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and given.strip().isdecimal():
        return int(given)
    if isinstance(given, str) and len(given.strip()) == 1 and given.strip().upper() in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        return ord(given.strip().upper()) - ord("A")
    raise OLMoInputError(f"column {column!r} is an index from 0 or a letter, got {given!r:.60}")


def _points(given: Any, column: str) -> list[tuple[float, float]] | None:
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            pairs = list(zip(given["x"] or [], given["y"] or [], strict=True))
        else:
            pairs = [(p["x"], p["y"]) if isinstance(p, Mapping) else (p[0], p[1]) for p in given]
        return [(float(x), float(y)) for x, y in pairs]
    except (TypeError, ValueError, KeyError, IndexError):
        raise OLMoInputError(
            f"column {column!r} holds points with x and y, none of them null, got {given!r:.60}"
        ) from None

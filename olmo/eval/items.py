"""From a raw example to questions with what is known to be right: what is asked goes one way, the answer another.

Any example that can be trained on can be evaluated: its last answer becomes the reference. Several conversations about
one picture or video become several questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from olmo.engine.choosing import N_OPTIONS
from olmo.eval.reference import Reference
from olmo.preprocessing.messages import Conversation, Example, Message, Role, parse_example


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        row: row of the source it comes from.
        question: its place among the questions of that row, from 0.
        n_questions: how many the row has.
        request: what a preprocessor takes; holds no answer.
        prompt: the question for people to read, options below it.
        reference: what is right.
        frame_seconds: times of the frames that were shown of each video, once it was asked; empty for pictures.
    """

    row: int
    question: int
    n_questions: int
    request: dict[str, Any]
    prompt: str
    reference: Reference
    frame_seconds: tuple[tuple[float, ...], ...] = ()

    @property
    def key(self) -> tuple[int, int]:
        """Row and question."""
        return self.row, self.question


def items_of(example: Mapping[str, Any], row: int, style: str | None = None, place: str | None = None) -> list[Item]:
    """The questions of an example.

    Args:
        example: as `parse_example` takes it, with or without answers.
        row: its row in the source.
        style: ask in this style, whatever the example names.
        place: where a person finds the row, for errors.

    Raises:
        OLMoInputError: not an example.
    """
    parsed = parse_example(example, takes_video=True)
    items = []
    for number, conversation in enumerate(parsed.conversations):
        if style is not None:
            conversation = replace(conversation, style=style)
        metadata = {**parsed.metadata, "question_index": number}
        # Source and row decide which frames are drawn at random.
        own: dict[str, Any] = {key: value for key, value in parsed.metadata.items() if key in ("source", "row")}
        asked: dict[str, Any] = {**own, "place": place or f"row {row}", N_OPTIONS: len(conversation.options)}
        request = {**_request(parsed, conversation), "metadata": asked}
        reference = _reference(conversation, metadata)
        items.append(Item(row, number, len(parsed.conversations), request, _prompt(conversation), reference))
    return items


def _asked(conversation: Conversation) -> tuple[Message, ...]:
    """The turns up to the last question."""
    messages = conversation.messages
    return messages[:-1] if messages[-1].role is Role.assistant else messages


def _request(parsed: Example, conversation: Conversation) -> dict[str, Any]:
    request: dict[str, Any] = {
        "messages": [{"role": m.role.value, "content": m.text} for m in _asked(conversation)],
        "style": conversation.style,
        "label": conversation.label,
        "options": list(conversation.options) or None,
    }
    if parsed.images:
        request["images"] = list(parsed.images)
    if parsed.videos:
        request["videos"] = list(parsed.videos)
        request |= {"start_s": parsed.start_s, "end_s": parsed.end_s, "subtitles": parsed.subtitles}
    return {name: value for name, value in request.items() if value is not None}


def _prompt(conversation: Conversation) -> str:
    """The question with the turns before it and the options below it."""
    *before, last = (message.text for message in _asked(conversation))
    question = "\n".join([*before, last or conversation.label or conversation.style or ""])
    letters = (f"{chr(ord('A') + i)}: {option}" for i, option in enumerate(conversation.options))
    return "\n".join([question, *letters])


def _reference(conversation: Conversation, metadata: dict[str, Any]) -> Reference:
    last = conversation.messages[-1]
    answers = conversation.answers or ((last.text,) if last.role is Role.assistant else ())
    return Reference(
        answers=answers,
        options=conversation.options,
        answer_idx=conversation.answer_idx,
        points=conversation.points,
        point_scale=conversation.point_scale,
        metadata=metadata,
    )

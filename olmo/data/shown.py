"""What an example shows: pictures or videos, beside its messages or inside them. Nothing is opened here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_KEYS = {"image": ("image", "images"), "video": ("video", "videos")}
"""Keys of an example that hold what is shown, by the type of the parts that do so inside messages."""


def has_video(example: Mapping[str, Any]) -> bool:
    """Whether an example shows a video."""
    return _shows(example, "video")


def shows_something(example: Mapping[str, Any]) -> bool:
    """Whether an example names the pictures or videos that it is about."""
    return any(_shows(example, kind) for kind in _KEYS)


def _shows(example: Mapping[str, Any], kind: str) -> bool:
    if any(example.get(key) is not None for key in _KEYS[kind]):
        return True
    return any(
        part.get("type") == kind and any(part.get(key) is not None for key in (kind, "path"))
        for part in _parts(example)
    )


def _parts(example: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of all messages, also of those in `message_list`."""
    for conversation in (example, *_items(example.get("message_list"))):
        messages = conversation.get("messages") if isinstance(conversation, Mapping) else conversation
        for message in _items(messages):
            content = message.get("content") if isinstance(message, Mapping) else None
            yield from (part for part in _items(content) if isinstance(part, Mapping))


def _items(given: Any) -> list[Any] | tuple[Any, ...]:
    return given if isinstance(given, list | tuple) else ()

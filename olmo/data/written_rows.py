"""A row that a person wrote (a line of JSONL, a .json beside a picture) as an example: files found, style filled in.

A misspelt key is an error, because it would otherwise be passed over in silence. What conversations may look like is
checked later, by `olmo.preprocessing.messages`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.data.pictures import resolve_picture
from olmo.data.videos import find_subtitles, resolve_video
from olmo.exceptions import OLMoInputError

CONVERSATION_KEYS = (
    *("messages", "prompt", "question", "answer", "answers", "text", "options", "answer_idx"),
    *("label", "points", "point_scale", "style"),
)
"""Keys that make up one conversation."""

SHOWN_KEYS = ("image", "images", "video", "videos", "start_s", "end_s", "subtitles")
"""Keys of what a row shows."""

ROW_KEYS = (*SHOWN_KEYS, "message_list", "styles", "weight", "metadata", *CONVERSATION_KEYS)
"""Keys of a row; others go into its metadata."""

_MARKS = ("<image>", "<video>")
_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def read_row(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        OLMoInputError: not UTF-8, not JSON, not an object.
    """
    try:
        row = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise OLMoInputError(f"not UTF-8 (byte {error.start} of the row); save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        where = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise OLMoInputError(f"not JSON ({where}); write one whole object, keys and texts in double quotes") from None
    if not isinstance(row, dict):
        raise OLMoInputError(f'a row is a JSON object such as {{"image": ..., "messages": ...}}, got {row!r:.60}')
    return row


def written_example(
    row: Mapping[str, Any], root: Path, downloads: Path | None = None, style: str | None = None
) -> dict[str, Any]:
    """The example of a row: the form of `parse_example`, pictures, videos and subtitles by absolute path.

    Args:
        row: what stands in the file. `conversations` with `from` and `value`, the form of LLaVA, is understood too.
        root: folder that relative paths start from.
        downloads: folder of downloaded pictures.
        style: style of a conversation that names none and has no points.

    Raises:
        OLMoInputError: a misspelt key, a picture that is given by URL and was not downloaded, or a video by URL.
    """
    row = {k: v for k, v in row.items() if v is not None}
    if "conversations" in row and "messages" not in row:
        row["messages"] = messages_of_llava(row.pop("conversations"))
    _refuse_misspelt(row, ROW_KEYS)
    example = {k: v for k, v in row.items() if k in ROW_KEYS}
    own = {k: v for k, v in row.items() if k not in ROW_KEYS}
    if own:
        metadata = example.get("metadata", {})
        example["metadata"] = {**own, **metadata} if isinstance(metadata, Mapping) else metadata
    _find_files(example, root, downloads)
    if isinstance(example.get("message_list"), list):
        given = [_conversation(c, root, downloads) for c in example["message_list"]]
        example["message_list"] = given if style is None or "styles" in example else [_styled(c, style) for c in given]
        return example
    return _styled(_conversation(example, root, downloads), style)


def _find_files(example: dict[str, Any], root: Path, downloads: Path | None) -> None:
    """Put absolute paths in the place of those of a row."""
    if "image" in example:
        example["image"] = _picture(example["image"], root, downloads)
    if isinstance(example.get("images"), list):
        example["images"] = [_picture(v, root, downloads) for v in example["images"]]
    if "video" in example:
        example["video"] = _video(example["video"], root)
    if isinstance(example.get("videos"), list):
        example["videos"] = [_video(v, root) for v in example["videos"]]
    if "subtitles" in example:
        if not isinstance(example["subtitles"], str):
            raise OLMoInputError(f"'subtitles' is the path of an SRT or VTT file, got {example['subtitles']!r:.60}")
        example["subtitles"] = find_subtitles(example["subtitles"], root)


def _picture(value: Any, root: Path, downloads: Path | None) -> Any:
    if not isinstance(value, str):
        raise OLMoInputError(f"a picture is the path of a file, got {value!r:.60}")
    return resolve_picture(value, root, downloads)


def _video(value: Any, root: Path) -> Any:
    if not isinstance(value, str):
        raise OLMoInputError(f"a video is the path of a file, or of a folder of frames, got {value!r:.60}")
    return resolve_video(value, root)


def _conversation(given: Any, root: Path, downloads: Path | None) -> Any:
    """A conversation with the files inside its messages found, and the style that points need."""
    if isinstance(given, list):
        return [_message(m, root, downloads) for m in given]
    if not isinstance(given, Mapping):
        return given
    conversation = dict(given)
    _refuse_misspelt(conversation, ROW_KEYS)
    if isinstance(conversation.get("messages"), list):
        conversation["messages"] = [_message(m, root, downloads) for m in conversation["messages"]]
    if "points" in conversation:
        conversation.setdefault("style", "pointing")
    return conversation


def _message(given: Any, root: Path, downloads: Path | None) -> Any:
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), list):
        return given
    return {**given, "content": [_part(part, root, downloads) for part in given["content"]]}


def _part(given: Any, root: Path, downloads: Path | None) -> Any:
    if not isinstance(given, Mapping):
        return given
    if given.get("type") == "video":
        return {k: _video(v, root) if k in ("video", "path") else v for k, v in given.items()}
    return {k: _picture(v, root, downloads) if k in ("image", "path") else v for k, v in given.items()}


def _styled(conversation: Any, style: str | None) -> Any:
    if style is None:
        return conversation
    if isinstance(conversation, list):
        return {"messages": conversation, "style": style}
    return {"style": style, **conversation} if isinstance(conversation, Mapping) else conversation


def messages_of_llava(given: Any) -> list[dict[str, str]]:
    """Messages from `[{"from": "human", "value": "<image> ..."}, ...]`; what is shown always comes first here.

    Raises:
        OLMoInputError: not of this form.
    """
    if not isinstance(given, list):
        raise OLMoInputError(f"'conversations' is a list of {{'from', 'value'}}, got {given!r:.60}")
    messages = []
    for i, turn in enumerate(given):
        if not isinstance(turn, Mapping) or turn.get("from") not in _SPEAKERS or not isinstance(turn.get("value"), str):
            raise OLMoInputError(
                f"conversations[{i}] is {{'from': 'human' or 'gpt', 'value': '...'}}, got {turn!r:.60}; or write "
                "'messages' with 'role' and 'content'"
            )
        text = turn["value"]
        for mark in _MARKS:
            text = text.replace(mark, "")
        messages.append({"role": _SPEAKERS[turn["from"]], "content": text.strip()})
    return messages


def _refuse_misspelt(row: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in row:
        close = [] if key in known else difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if close:
            raise OLMoInputError(
                f"unknown key {key!r}; did you mean {close[0]!r}? Values of your own go under 'metadata'"
            )

"""What a user may hand in as an example, checked and brought into one form.

The accepted spellings: chat messages, a plain prompt, a record with question and answer, and lists of conversations
that share their pictures. Knows nothing of wordings, pixels or tokens.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.prompts import POINT_STYLES, resolve_style

_CONVERSATION_KEYS = ("messages", "prompt", "question", "answer", "answers", "text", "options", "label", "points")
_FORMS = (
    'give {"image": ..., "messages": [{"role": "user", "content": "..."}]}, {"image": ..., "prompt": "..."}, or '
    '"message_list" for several conversations on one picture'
)


class Role(ConfigEnum):
    """Who speaks."""

    user = "user"
    assistant = "assistant"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns of one conversation and what an answer can be written from.

    Attributes:
        messages: alternating turns, the user's first. An empty first text is filled from the style's wordings.
        style: resolved style name, or None.
        answers: answers of several people to a question; the most frequent counts.
        options: choices of a multiple-choice question.
        answer_idx: index of the right option.
        label: what `points` show.
        points: (x, y) of each instance.
        point_scale: None: points are in pixels of the first picture; else the value that stands for its full width and
            height (100 for percent).
    """

    messages: tuple[Message, ...]
    style: str | None = None
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer_idx: int | None = None
    label: str | None = None
    points: tuple[tuple[float, float], ...] | None = None
    point_scale: float | None = None

    @property
    def has_target(self) -> bool:
        """Whether there is an answer to learn from or to compare with."""
        return self.messages[-1].role is Role.assistant or self.has_derived_target

    @property
    def has_derived_target(self) -> bool:
        """Whether the answer is still to be written, from options, answers or points."""
        return bool(self.answers) or self.answer_idx is not None or self.points is not None


@dataclass(frozen=True)
class Example:
    """An example in its one form: what it shows (not yet decoded), conversations about it, what is passed through.

    Attributes:
        images: pictures.
        conversations: at least one.
        weight: of its answers.
        metadata: passed through.
        videos: videos, where there are no pictures.
        start_s: the part of a video that is meant begins here, in seconds; None: at its beginning.
        end_s: and ends before this; None: at its end.
        subtitles: of the video, as `VideoPreprocessor` takes them; None: there are none.
    """

    images: tuple[Any, ...]
    conversations: tuple[Conversation, ...]
    weight: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)
    videos: tuple[Any, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    subtitles: Any = None


def parse_example(example: Mapping[str, Any], takes_video: bool = False) -> Example:
    """Check an example and bring it into its one form.

    Args:
        example: `image` or `images` (PIL image, `[H, W, 3]` uint8 array, path or bytes; optional), and one of
            `messages`, `prompt`, `message_list`, or a record (`question`, `answer`, `answers`, `options` and
            `answer_idx`, `label` and `points`). Optional: `style` (`styles` beside `message_list`), `weight` and
            `metadata`.
        takes_video: `video` or `videos` (what `open_video` takes, or a list of them) may stand in place of pictures,
            with `start_s` and `end_s` where a part of it is meant, and `subtitles`; False refuses them.

    Raises:
        OLMoInputError: not one of these forms; the message says which part and what is allowed.
    """
    if not isinstance(example, Mapping):
        raise OLMoInputError(f"an example is a dict, got {type(example).__name__}; {_FORMS}")
    if not takes_video and any(example.get(key) is not None for key in ("video", "videos")):
        raise OLMoInputError("this model reads pictures, not video; use a VideoOlmo model, or pass frames as 'images'")
    metadata = example.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise OLMoInputError(f"'metadata' is a dict, got {type(metadata).__name__}")
    shown: _Shown = {"image": _Pictures(_given_images(example))}
    if takes_video:
        shown["video"] = _Pictures(_given_videos(example), "video")
    is_listed = "message_list" in example
    conversations = tuple(_parse_conversation(c, s, shown, is_listed) for c, s in _conversations_of(example))
    images, videos = shown["image"].in_order(), shown["video"].in_order() if takes_video else ()
    if example.get("subtitles") is not None and len(videos) != 1:
        raise OLMoInputError(f"'subtitles' belong to one video, and the example has {len(videos)}")
    if images and videos:
        raise OLMoInputError("an example has pictures or a video, not both; give the pictures as frames of the video")
    return Example(
        images,
        conversations,
        _parse_weight(example.get("weight", 1.0)),
        dict(metadata),
        videos,
        _parse_seconds(example.get("start_s"), "start_s", bool(videos)),
        _parse_seconds(example.get("end_s"), "end_s", bool(videos)),
        example.get("subtitles"),
    )


class _Pictures:
    """Collects the pictures (or videos) of an example: given beside the messages, or inside their parts."""

    def __init__(self, given: tuple[Any, ...], kind: str = "image") -> None:
        self._kind, self._name = kind, "pictures" if kind == "image" else "videos"
        self._given = given
        self._inline: list[Any] = []
        self._n_placeholders = 0

    def add_part(self, part: Mapping[str, Any]) -> None:
        picture = next((part[k] for k in (self._kind, "path") if part.get(k) is not None), None)
        if picture is not None:
            self._inline.append(picture)
        elif "url" in part or f"{self._kind}_url" in part:
            raise OLMoInputError(
                f"{self._name} are not fetched from the network; download it and pass its path or bytes"
            )
        else:
            self._n_placeholders += 1

    def in_order(self) -> tuple[Any, ...]:
        if self._inline and (self._given or self._n_placeholders):
            raise OLMoInputError(
                f"{self._name} are given both inside the messages and beside them; use {{'type': {self._kind!r}, "
                f"{self._kind!r}: ...}} parts alone, or '{self._kind}s' alone"
            )
        if self._n_placeholders not in (0, len(self._given)):
            raise OLMoInputError(
                f"the messages mention {self._n_placeholders} {self._name} by {{'type': {self._kind!r}}} parts, but "
                f"{len(self._given)} are given; pass as many in '{self._kind}s', or leave the parts out ({self._name} "
                "always come first)"
            )
        return tuple(self._inline) or self._given


_Shown = dict[str, _Pictures]
"""What collects the parts of each type."""


def _given_videos(example: Mapping[str, Any]) -> tuple[Any, ...]:
    video, videos = example.get("video"), example.get("videos")
    if video is not None and videos is not None:
        raise OLMoInputError("give 'video' for one video or 'videos' for a list, not both")
    if video is not None:
        return (video,)
    if videos is None:
        return ()
    if not isinstance(videos, list | tuple) or any(v is None for v in videos):
        raise OLMoInputError(f"'videos' is a list of videos, got {videos!r:.100}; pass one video as 'video'")
    return tuple(videos)


def _given_images(example: Mapping[str, Any]) -> tuple[Any, ...]:
    image, images = example.get("image"), example.get("images")
    if image is not None and images is not None:
        raise OLMoInputError("give 'image' for one picture or 'images' for a list, not both")
    if image is not None:
        if isinstance(image, list | tuple):
            raise OLMoInputError("'image' is one picture; pass a list of them as 'images'")
        return (image,)
    if images is None:
        return ()
    if not isinstance(images, list | tuple):
        raise OLMoInputError(
            f"'images' is a list of pictures, got {type(images).__name__}; pass one picture as 'image'"
        )
    for i, picture in enumerate(images):
        if picture is None:
            raise OLMoInputError(f"images[{i}] is None")
    return tuple(images)


def _conversations_of(example: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Pairs (conversation as given, its style as given)."""
    style, styles = example.get("style"), example.get("styles")
    if "message_list" not in example:
        if styles is not None:
            raise OLMoInputError("'styles' goes with 'message_list'; give 'style' for a single conversation")
        return [(example, style)]
    mixed = [k for k in _CONVERSATION_KEYS if k in example]
    if mixed:
        raise OLMoInputError(f"'message_list' holds whole conversations; {', '.join(mixed)} beside it has no place")
    message_list = example["message_list"]
    if not isinstance(message_list, list | tuple) or not message_list:
        raise OLMoInputError(f"'message_list' is a non-empty list of conversations, got {message_list!r:.100}")
    if styles is None:
        return [(c, style) for c in message_list]
    if not isinstance(styles, list | tuple) or len(styles) != len(message_list):
        raise OLMoInputError(
            f"'styles' needs one name for each of the {len(message_list)} conversations, got {styles!r:.100}"
        )
    return list(zip(message_list, styles, strict=True))


def _parse_conversation(given: Any, style: Any, shown: _Shown, is_listed: bool) -> Conversation:
    record = given if isinstance(given, Mapping) else {"messages": given}
    if is_listed and any(record.get(k) is not None for k in ("image", "images", "video", "videos")):
        raise OLMoInputError("conversations in 'message_list' share the example's pictures; give them beside the list")
    style = resolve_style(record.get("style") or style)
    conversation = Conversation(
        messages=(),
        style=style,
        answers=_strings(record.get("answers"), "answers"),
        options=_strings(record.get("options"), "options"),
        label=_optional_text(record.get("label"), "label"),
        points=_parse_points(record.get("points")),
        point_scale=_parse_scale(record.get("point_scale")),
    )
    conversation = replace(conversation, answer_idx=_answer_index(record.get("answer_idx"), conversation.options))
    if conversation.points is not None and style not in POINT_STYLES:
        raise OLMoInputError(f"'points' need style {' or '.join(sorted(POINT_STYLES))}, got {style!r}")
    messages = _turns(record, shown)
    if messages[-1].role is Role.assistant and conversation.has_derived_target:
        raise OLMoInputError("the answer is given twice: as text, and by 'answers', 'answer_idx' or 'points'; keep one")
    conversation = replace(conversation, messages=messages)
    _check_turns(conversation)
    return conversation


def _turns(record: Mapping[str, Any], shown: _Shown) -> tuple[Message, ...]:
    questions = [k for k in ("messages", "prompt", "question") if record.get(k) is not None]
    answers = [k for k in ("answer", "text") if record.get(k) is not None]
    for keys in (questions, answers, [*questions, *answers] if "messages" in questions else []):
        if len(keys) > 1:
            raise OLMoInputError(f"{' and '.join(repr(k) for k in keys)} overlap; give one of them")
    if "messages" in questions:
        return _parse_messages(record["messages"], shown)
    if not questions and not any(record.get(k) is not None for k in (*_CONVERSATION_KEYS, "style")):
        raise OLMoInputError(
            f"no messages in the example (its keys: {', '.join(map(str, record)) or 'none'}); {_FORMS}"
        )
    question = record[questions[0]] if questions else ""
    messages = [Message(Role.user, _text_of(question, f"'{questions[0]}'" if questions else "", shown))]
    if answers:
        messages.append(Message(Role.assistant, _text_of(record[answers[0]], f"'{answers[0]}'", None)))
    return tuple(messages)


def _parse_messages(given: Any, shown: _Shown) -> tuple[Message, ...]:
    if isinstance(given, str):
        raise OLMoInputError("'messages' is a list of {'role', 'content'}; pass a plain string as 'prompt'")
    if not isinstance(given, Sequence) or not given:
        raise OLMoInputError(f"'messages' is a non-empty list of {{'role', 'content'}}, got {given!r:.100}; {_FORMS}")
    return tuple(_parse_message(m, i, shown) for i, m in enumerate(given))


def _parse_message(given: Any, index: int, shown: _Shown) -> Message:
    where = f"messages[{index}]"
    if not isinstance(given, Mapping) or "role" not in given or "content" not in given:
        raise OLMoInputError(f"{where} is a dict with 'role' and 'content', got {given!r:.100}")
    expected = Role.user if index % 2 == 0 else Role.assistant
    if given["role"] not in tuple(Role):
        hint = "; put instructions into the first user message" if given["role"] == "system" else ""
        raise OLMoInputError(f"{where}.role is 'user' or 'assistant', got {given['role']!r}{hint}")
    role = Role(given["role"])
    if role is not expected:
        raise OLMoInputError(
            f"{where} is the {role.value}'s, but roles alternate and the user begins: expected {expected.value!r}"
        )
    return Message(role, _text_of(given["content"], where, shown if role is Role.user else None))


def _text_of(content: Any, where: str, shown: _Shown | None) -> str:
    """Text of a string or of a list of parts; pictures and videos among the parts are handed to `shown`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise OLMoInputError(f"content of {where} is a string or a list of parts, got {type(content).__name__}")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif shown is not None and kind in shown:
            shown[kind].add_part(part)
        elif kind == "image" or (kind == "video" and shown is None):
            raise OLMoInputError(
                f"part {i} of {where}: only the user sends {'pictures' if kind == 'image' else 'videos'}"
            )
        elif kind == "video":
            raise OLMoInputError(f"part {i} of {where} is a video; this model reads pictures, use a VideoOlmo model")
        else:
            raise OLMoInputError(
                f"part {i} of {where} is {{'type': 'text', 'text': ...}} or {{'type': 'image', 'image': ...}}, "
                f"got {part!r:.100}"
            )
    return " ".join(t for t in texts if t.strip())


def _check_turns(conversation: Conversation) -> None:
    """An empty text is allowed only where the style, its wordings or an unprompted answer can stand for it."""
    for i, message in enumerate(conversation.messages):
        if message.text.strip():
            continue
        if message.role is Role.assistant:
            raise OLMoInputError(f"messages[{i}]: the assistant's text is empty")
        if i > 0 or not (conversation.style or conversation.has_target):
            raise OLMoInputError(f"empty prompt in messages[{i}]: write what you want to know, or give a 'style'")


def _strings(given: Any, name: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not given or not all(isinstance(v, str) for v in given):
        raise OLMoInputError(f"{name!r} is a non-empty list of strings, got {given!r:.100}")
    return tuple(given)


def _optional_text(given: Any, name: str) -> str | None:
    if given is not None and (not isinstance(given, str) or not given.strip()):
        raise OLMoInputError(f"{name!r} is a non-empty string, got {given!r:.100}")
    return given


def _answer_index(given: Any, options: tuple[str, ...]) -> int | None:
    if given is None:
        return None
    if not isinstance(given, numbers.Integral) or not 0 <= int(given) < len(options):
        raise OLMoInputError(f"'answer_idx' is an index into the {len(options)} 'options', got {given!r}")
    return int(given)


def _parse_points(given: Any) -> tuple[tuple[float, float], ...] | None:
    if given is None:
        return None
    try:
        pairs = [(p["x"], p["y"]) if isinstance(p, Mapping) else tuple(p) for p in given]
        points = tuple((float(x), float(y)) for x, y in pairs)
    except (TypeError, ValueError, KeyError):
        raise OLMoInputError(f"'points' is a list of (x, y) pairs or of {{'x', 'y'}}, got {given!r:.100}") from None
    if not all(abs(v) < float("inf") for point in points for v in point):
        raise OLMoInputError(f"'points' must be finite numbers, got {given!r:.100}")
    return points


def _parse_scale(given: Any) -> float | None:
    if given is None:
        return None
    if not isinstance(given, numbers.Real) or not 0 < float(given) < float("inf"):
        raise OLMoInputError(f"'point_scale' is the coordinate of the far edge (100 for percent), got {given!r}")
    return float(given)


def _parse_seconds(given: Any, name: str, has_video: bool) -> float | None:
    if given is None:
        return None
    if not has_video:
        raise OLMoInputError(f"{name!r} is a time in a video, and the example has none")
    if not isinstance(given, numbers.Real) or not 0 <= float(given) < float("inf"):
        raise OLMoInputError(f"{name!r} is a time in seconds, 0 or later, got {given!r}")
    return float(given)


def _parse_weight(given: Any) -> float:
    if not isinstance(given, numbers.Real) or not 0 <= float(given) < float("inf"):
        raise OLMoInputError(f"'weight' is a number >= 0, got {given!r}")
    return float(given)

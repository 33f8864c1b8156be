"""Subtitles: SRT and WebVTT read, chosen by mode, and as lines of a prompt."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from olmo.exceptions import OLMoConfigurationError, OLMoInputError

MAX_BYTES = 16 * 2**20
"""Longer subtitle files are refused; a film has about 0.1 MB."""

MODES = "all, ignore, frame_W (lines within W seconds of a frame), truncate_N (the first N lines)"

_CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"^\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s|$)")
_MARKUP = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")
_BLOCK_END = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Subtitle:
    """What is said or written from one time to another.

    Attributes:
        start_s: when it appears, in seconds of the video.
        end_s: when it disappears, not before `start_s`.
        text: one line, without markup.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class SubtitleMode:
    """Which subtitles are kept.

    Attributes:
        kind: `all`, `ignore`, `frame` or `truncate`.
        amount: seconds around a frame for `frame`, lines for `truncate`, else 0.
    """

    kind: str
    amount: float = 0.0

    @classmethod
    def parse(cls, text: str) -> SubtitleMode:
        """Read a mode as it stands in a configuration.

        Raises:
            OLMoConfigurationError: not one of `MODES`.
        """
        kind, _, number = str(text).partition("_")
        if kind in ("all", "ignore") and not number:
            return cls(kind)
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        is_known = kind == "frame" or (kind == "truncate" and amount == int(max(amount, 0)))
        if not (is_known and 0 <= amount < math.inf):
            raise OLMoConfigurationError(f"unknown subtitle mode {text!r}; choose {MODES}")
        return cls(kind, amount)


def load_subtitles(path: str | Path) -> list[Subtitle]:
    """The subtitles of a file, SRT or WebVTT, in UTF-8 or UTF-16 or else Windows-1252.

    Raises:
        OLMoInputError: missing, too large, or no subtitles in it.
    """
    name = f"subtitle file {str(path)!r}"
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise OLMoInputError(
                f"{name} has more than {MAX_BYTES // 2**20} MiB, so it is no subtitles; check the path"
            )
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise OLMoInputError(f"cannot read {name}: {error}") from None
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return parse_subtitles(data.decode(encoding), name)
        except UnicodeDecodeError:
            continue
    return parse_subtitles(data.decode("latin-1"), name)


def parse_subtitles(text: str, name: str = "the subtitles") -> list[Subtitle]:
    """The subtitles in a text, SRT or WebVTT, by time.

    A subtitle that ends before it begins counts as ending where it begins. Blocks without times (headers, notes,
    styles) and subtitles without text are left out.

    Args:
        text: content of a file.
        name: what messages call it.

    Returns:
        At least one subtitle, sorted by start.

    Raises:
        OLMoInputError: nothing in it reads as a subtitle.
    """
    found: list[Subtitle] = []
    for block in _BLOCK_END.split(text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")):
        lines = block.split("\n")
        for i, line in enumerate(lines[:3]):  # a number or a name may stand above the times
            if times := _TIMES.match(line):
                start_s, end_s = _seconds(times.groups()[:4]), _seconds(times.groups()[4:])
                said = " ".join(html.unescape(_MARKUP.sub("", " ".join(lines[i + 1 :]))).split())
                if said:
                    found.append(Subtitle(start_s, max(start_s, end_s), said))
                break
    if not found:
        raise OLMoInputError(
            f"{name} holds no subtitles; wanted SRT or WebVTT, with times such as 00:00:01,000 --> 00:00:02,500"
        )
    return sorted(found, key=lambda s: s.start_s)


def select_subtitles(
    subtitles: Sequence[Subtitle], mode: SubtitleMode | str, seconds: Sequence[float] | np.ndarray
) -> list[Subtitle]:
    """The subtitles that a mode keeps.

    Args:
        subtitles: by time.
        mode: one of `MODES`.
        seconds: `[m]` times of the frames that are shown, in seconds of the video; `frame_W` keeps what overlaps
            `[t - W, t + W]` for one of them.

    Returns:
        Some of the subtitles, in their order.

    Raises:
        OLMoConfigurationError: an unknown mode.
    """
    chosen = SubtitleMode.parse(mode) if isinstance(mode, str) else mode
    if chosen.kind == "ignore":
        return []
    if chosen.kind == "truncate":
        return list(subtitles[: int(chosen.amount)])
    if chosen.kind == "all":
        return list(subtitles)
    times = np.sort(np.asarray(seconds, np.float64))
    first = np.searchsorted(times, [s.start_s - chosen.amount for s in subtitles], "left")
    stop = np.searchsorted(times, [s.end_s + chosen.amount for s in subtitles], "right")
    return [s for s, a, b in zip(subtitles, first.tolist(), stop.tolist(), strict=True) if a < b]


def subtitle_lines(subtitles: Sequence[Subtitle], zero_s: float = 0.0) -> list[str]:
    """Subtitles as lines of a prompt: `1.0 - 2.5 text`.

    Args:
        subtitles: what is to be written.
        zero_s: time of the video that counts as 0, for a part of it, in seconds.

    Returns:
        One line a subtitle.
    """
    return [f"{max(0.0, s.start_s - zero_s):.1f} - {max(0.0, s.end_s - zero_s):.1f} {s.text}" for s in subtitles]


def subtitles_by_frame(subtitles: Sequence[Subtitle], seconds: Sequence[float] | np.ndarray) -> list[list[Subtitle]]:
    """Subtitles put between frames: each to the last frame shown when it begins, to the first one if there is none.

    Args:
        subtitles: what is to be put.
        seconds: `[m]` times of the frames in seconds of the video, strictly increasing, m at least 1.

    Returns:
        m lists, one for each frame.
    """
    lists: list[list[Subtitle]] = [[] for _ in seconds]
    places = np.searchsorted(np.asarray(seconds), [s.start_s for s in subtitles], "right") - 1
    for subtitle, place in zip(subtitles, places.tolist(), strict=True):
        lists[max(place, 0)].append(subtitle)
    return lists


def _seconds(clock: Sequence[str | None]) -> float:
    """Seconds of a time on the clock: hours (or None), minutes, seconds, and digits behind the point."""
    hours, minutes, seconds, fraction = clock
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")

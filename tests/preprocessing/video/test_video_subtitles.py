"""Subtitles: both formats, every mode, and the lines they become (P55)."""

from __future__ import annotations

import time

import pytest

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.video.subtitles import (
    Subtitle,
    SubtitleMode,
    load_subtitles,
    parse_subtitles,
    select_subtitles,
    subtitle_lines,
    subtitles_by_frame,
)

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>

2
00:00:04,000 --> 00:00:05,000
{\\an8}Two
lines &amp; more

3
01:00:00,250 --> 01:00:01,000
Late
"""

VTT = """WEBVTT - a title

NOTE 00:01 is no time

STYLE
::cue { color: red }

first
00:01.000 --> 00:02.500 align:start position:10%
<v Ann>Hello <00:00:01.500><c>there</c>

00:00:04.000 --> 00:00:05.000
Two
lines &amp; more

01:00:00.250 --> 01:00:01.000
Late
"""

WANTED = [Subtitle(1.0, 2.5, "Hello there"), Subtitle(4.0, 5.0, "Two lines & more"), Subtitle(3600.25, 3601.0, "Late")]


@pytest.mark.parametrize("text", [SRT, VTT, SRT.replace("\n", "\r\n"), "\ufeff" + SRT, SRT.rstrip()])
def test_both_formats_read_the_same(text):
    assert parse_subtitles(text) == WANTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_files_of_several_encodings(tmp_path, encoding):
    path = tmp_path / "a.srt"
    path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\nCafé\n".encode(encoding))
    assert load_subtitles(path) == [Subtitle(1.0, 2.0, "Café")]


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(OLMoInputError, match="cannot read subtitle file"):
        load_subtitles(tmp_path / "none.srt")
    (tmp_path / "a.srt").write_text("nothing here")
    with pytest.raises(OLMoInputError, match="holds no subtitles; wanted SRT or WebVTT"):
        load_subtitles(tmp_path / "a.srt")


def test_odd_times_are_kept_in_order():
    text = "00:05.000 --> 00:04.000\nlater\n\n00:01.5 --> 00:02.5\nearlier\n\n00:03.000 --> 00:04.000\n \n"
    assert parse_subtitles(text) == [Subtitle(1.5, 2.5, "earlier"), Subtitle(5.0, 5.0, "later")]


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        *[("all", [0, 1, 2]), ("ignore", []), ("truncate_2", [0, 1]), ("truncate_0", []), ("truncate_9", [0, 1, 2])],
        *[("frame_0", [0]), ("frame_0.9", [0]), ("frame_1", [0, 1]), ("frame_5000", [0, 1, 2])],
    ],
)
def test_p55_modes(mode, kept):
    assert select_subtitles(WANTED, mode, [0.0, 2.5, 3.0, 6.0]) == [WANTED[i] for i in kept]


@pytest.mark.parametrize("mode", ["", "some", "frame", "frame_x", "frame_-1", "frame_inf", "truncate_1.5", "all_3"])
def test_unknown_modes(mode):
    with pytest.raises(OLMoConfigurationError, match=r"unknown subtitle mode .*; choose all, ignore"):
        SubtitleMode.parse(mode)


def test_lines():
    assert subtitle_lines(WANTED[:2]) == ["1.0 - 2.5 Hello there", "4.0 - 5.0 Two lines & more"]
    assert subtitle_lines(WANTED[:2], zero_s=2.0) == ["0.0 - 0.5 Hello there", "2.0 - 3.0 Two lines & more"]


def test_subtitles_between_frames():
    first, second, late = WANTED
    assert subtitles_by_frame(WANTED, [0.0, 1.0, 4.5]) == [[], [first, second], [late]]
    assert subtitles_by_frame(WANTED, [2.0]) == [[first, second, late]]


@pytest.mark.parametrize("text", ["<" * 200_000, "00:" * 100_000, "\n" * 200_000, "{\\" * 100_000, "-->" * 100_000])
def test_hostile_text_takes_no_time(text):
    start = time.monotonic()
    with pytest.raises(OLMoInputError):
        parse_subtitles("00:01.000 --> 00:02.000x\n" + text)
    assert time.monotonic() - start < 2

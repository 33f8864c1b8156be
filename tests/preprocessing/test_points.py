"""Points as text: tolerant reading, exact writing, round trip, linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.exceptions import OLMoInputError
from olmo.preprocessing import points
from olmo.preprocessing.points import Point, from_pixels, parse, parse_tags, to_pixels


def places(text: str) -> list[tuple[float, float]]:
    return [(p.x, p.y) for p in parse(text)]


def test_one_point() -> None:
    assert parse('<point x="10.0" y="20.5" alt="a cup">the cup</point>') == [Point(10.0, 20.5, "the cup", "a cup")]
    assert parse('<point x="10.0" y="20.5" alt="a">a</point>') == [Point(10.0, 20.5, "a")]


def test_several_points_and_text_around() -> None:
    text = (
        'There: <points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="cat">cat</points> and '
        '<point x="9.9" y="8.8" alt="dog">dog</point>.'
    )
    assert parse(text) == [Point(1.0, 2.0, "cat"), Point(3.0, 4.0, "cat"), Point(9.9, 8.8, "dog")]


@pytest.mark.parametrize(
    "text",
    [
        "<point x='10.0' y='20.0' alt='a'>a</point>",
        "<point x=10.0 y=20.0 alt=a>a</point>",
        '<point x="10.0 y="20.0" alt="a">a</point>',
        '<point x=10.0" y=20.0" alt=a">a</point>',
        '<POINT X="10.0" Y="20.0" ALT="a">a</POINT>',
        '<point   x = "10.0 "  y = " 20.0"\n alt = "a" >a</point>',
        '<point alt="a" y="20.0" x="10.0">a</point>',
        '<point x="10.0" y="20.0" alt="a">a',
        '<point x="10.0" y="20.0" alt="a"',
        '<point x="10.0" y="20.0" alt="a',
        '<point x="10.0" y="20.0" alt="a">',
        '<point x="10.0" y="20.0" alt="a"/>',
        '<point x="10.0" y="20.0" alt="">a</point>',
        '<point x="10.0" y="20.0" alt="a"></point>',
        '<point x="10.0", y="20.0", alt="a">a</point>',
        '<point x="10.0%" y="20.0%" alt="a">a</point>',
        '<point x="10" y="20" alt="a">a</points>',
        '<point x="+10.0" y="2e1" alt="a"> a </point >',
        '<points x="10.0" y="20.0" alt="a">a</points>',
        '<points x1="10.0" y1="20.0" alt="a">a</points>',
        '<point x="10.0"y="20.0"alt="a">a</point>',
        '<point x="10.000000000000000000000000000000" y="20." alt="a">a</point>',
        '<point x="10.0" y="20.0" x="30" alt="a">a</point>',
        '<point x="10.0" y="20.0" alt="a"> a </point> the rest <b>of</b> the text',
    ],
)
def test_malformed_tags_are_understood(text: str) -> None:
    assert parse(text) == [Point(10.0, 20.0, "a")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('<points x2="3" y2="4" x1="1" y1="2" alt="a">a</points>', [(1, 2), (3, 4)]),
        ('<points x1="1" x2="3" y1="2" y2="4" alt="a">a</points>', [(1, 2), (3, 4)]),
        ('<points x1="1" y1="2" x2="3" alt="a">a</points>', [(1, 2)]),
        ('<points x1="1" y1="2" y2="3" x3="5" y3="6">a</points>', [(1, 2), (5, 6)]),
        ('<points x1="1" y1="2" x10="3" y10="4" x9="5" y9="6">a</points>', [(1, 2), (5, 6), (3, 4)]),
        ('<points x1="1" y1="2" x1="3" y1="4">a</points>', [(1, 2)]),
        ('<points x1="1" y1="2" x2="3" y2="4', [(1, 2), (3, 4)]),
        ('<points x1="1" y1="2" x2="3" y2="', [(1, 2)]),
        ('<point x="1" y="2"<point x="3" y="4">a</point>', [(1, 2), (3, 4)]),
        ('<point x="-1" y="2">a</point><point x="1" y="100.1">a</point>', []),
        ('<point x="0" y="100">a</point><point x="100.0" y="0.0">a</point>', [(0, 100), (100, 0)]),
        ('<point x="nan" y="2">a</point><point x="inf" y="1">a</point>', []),
        ('<point x="1e99" y="2">a</point><point x="99999999999999999999" y="1">a</point>', []),
        ('<point x="a" y="b">a</point><point x="" y="">a</point><point>a</point>', []),
        ('<points x99999999="1" y99999999="2">a</points>', []),
        ('<pointer x="1" y="2">a</pointer><point-cloud x="1" y="2">', []),
        ("", []),
        ("There are none.", []),
        ("a < b, x=1 y=2, <points", []),
        ("</point></points>", []),
    ],
)
def test_what_is_kept_and_what_is_dropped(text: str, wanted: list) -> None:
    assert places(text) == wanted


def test_labels() -> None:
    assert parse('<point x="1" y="2" alt="&quot;a&quot; &amp; b">x &lt; y</point>') == [Point(1, 2, "x < y", '"a" & b')]
    assert parse('<point x="1" y="2" alt="a < b > c">a < b > c</point>')[0].label == "a < b > c"
    assert parse("<point x='1' y='2' alt='it&#39;s'>it's</point>") == [Point(1, 2, "it's")]
    # Without a closing tag the text that follows is prose, not a label.
    assert parse('<point x="1" y="2" alt="a">and so on') == [Point(1, 2, "a")]
    assert parse('<point x="1" y="2">and so on') == [Point(1, 2)]


def test_format_of_one_several_and_no_points() -> None:
    assert points.format([Point(10, 20.25)], "cup") == '<point x="10.0" y="20.2" alt="cup">cup</point>'
    several = points.format([Point(50, 1), Point(2, 99.96), Point(2, 3)], "a cup", alt="cups")
    assert several == ('<points x1="2.0" y1="3.0" x2="2.0" y2="100.0" x3="50.0" y3="1.0" alt="cups">a cup</points>')
    assert points.format([], "cup") == "There are none."


def test_points_are_sorted_after_rounding() -> None:
    text = points.format([Point(10.04, 5), Point(9.96, 7), Point(10.0, 6)], "a")
    assert places(text) == [(10.0, 5.0), (10.0, 6.0), (10.0, 7.0)]


def test_ampersands_stay_plain_where_they_are_read_rightly() -> None:
    assert 'alt="salt & pepper">salt & pepper<' in points.format([Point(1, 1)], "salt & pepper")


@pytest.mark.parametrize("bad", [-0.1, 100.1, float("nan"), float("inf")])
def test_format_refuses_what_is_not_percent(bad: float) -> None:
    with pytest.raises(OLMoInputError, match="percent"):
        points.format([Point(bad, 1.0)], "a")
    with pytest.raises(OLMoInputError, match="from_pixels"):
        points.format([Point(1.0, bad)], "a")


tenths = st.integers(0, 1000).map(lambda n: n / 10)
labels = st.text(max_size=30).map(str.strip)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(tenths, tenths), min_size=1, max_size=8), labels.filter(bool), st.none() | labels.filter(bool)
)
def test_round_trip(xy: list, label: str, alt: str | None) -> None:
    alt = None if alt == label else alt
    made = [Point(x, y, label, alt) for x, y in sorted(xy, key=lambda p: p[0] * 10000 + p[1])]
    assert parse(points.format(made, label, alt)) == made


fragments = st.sampled_from(
    [
        "<point",
        "<points",
        "</point>",
        "</points>",
        ' x="',
        " y=",
        '"',
        "'",
        ">",
        "<",
        "12.5",
        "x1=",
        "y1='3'",
        "alt=",
        " ",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(fragments | st.text(max_size=5), max_size=40).map("".join))
def test_parse_never_raises_and_stays_in_range(text: str) -> None:
    for point in parse(text):
        assert 0 <= point.x <= 100
        assert 0 <= point.y <= 100


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('a <point x="1" y="2">b</point> c', ['<point x="1" y="2">b</point>']),
        ('<points x1="1" y1="2" alt="b">b</points ><POINT x=3 y=4>', ['<points x1="1" y1="2" alt="b">b</points >',
         "<POINT x=3 y=4>"]),
        ('a <point x="1" y="2">b c', ['<point x="1" y="2">']),
        ('a <point x="1" y="2', ['<point x="1" y="2']),
        ('<point x="1" y="2">b</point c > d', ['<point x="1" y="2">b</point']),
        ('<point x="500" y="2">b</point>', ['<point x="500" y="2">b</point>']),
        ("</point> a < point", []),
    ],
)  # fmt: skip
def test_tags_are_found_where_they_stand(text: str, wanted: list[str]) -> None:
    tags = parse_tags(text)
    assert [text[tag.start : tag.end] for tag in tags] == wanted
    assert [point for tag in tags for point in tag.points] == parse(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(fragments | st.text(max_size=5), max_size=40).map("".join))
def test_tags_never_overlap(text: str) -> None:
    ends = [0, *(place for tag in parse_tags(text) for place in (tag.start, tag.end)), len(text)]
    assert ends == sorted(ends)


def test_hostile_numbers_do_not_raise() -> None:
    nines = "9" * 5000
    for value in (nines, f"0.{nines}", f"1e{nines}", f"&#{nines};"):
        parse(f'<point x="{value}" y="{value}" x{nines}="1" alt="&#{nines};">&#{nines};</point>')
    assert points.format([Point(1, 1)], f"&#{nines};").startswith("<point")


@pytest.mark.parametrize(
    "unit",
    ["<point", '<point x="', "<point x='", "<point alt='\"", 'x="', "x1=1 ", "<", '"', "a ", "a", " ", "9", "&#", "=",
     '<point x="1" y="2">', "<points x1", "alt='", 'alt="\'', "\n", "<point alt=\"a>b", "x =", "_"],
)  # fmt: skip
@pytest.mark.parametrize("start", ["", "<point ", '<point alt="', '<point x="'])
def test_time_is_linear(unit: str, start: str) -> None:
    """200 kB take some tens of milliseconds; the square of that length would take minutes."""
    text = start + unit * (200_000 // len(unit))
    begin = time.thread_time()  # other threads of the test process do not count
    parse(text)
    assert time.thread_time() - begin < 5


def test_pixels() -> None:
    given_points = [Point(0, 100), Point(50, 25, "a")]
    assert to_pixels(given_points, 640, 480) == [(0.0, 480.0), (320.0, 120.0)]
    assert from_pixels([(0.0, 480.0), (320.0, 120.0)], 640, 480, "a") == [Point(0, 100, "a"), Point(50, 25, "a")]
    for size in ((0, 5), (5, 0), (-1, 5), (float("nan"), 5)):
        with pytest.raises(OLMoInputError, match="over 0"):
            from_pixels([(1, 1)], *size)

from __future__ import annotations

import pytest
import torch
from toy_steps import ScriptStep

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import generate
from olmo.generation.params import GenerationParams
from olmo.generation.stop_strings import StopStringFilter, StopStringMatcher

N_BYTES = 256


def decode_bytes(ids: list[int]) -> str:
    """Each id is a byte; ids above are special and give no text."""
    return bytes(i for i in ids if i < N_BYTES).decode(errors="replace")


PIECES = ["Hel", "lo E", "N", "D now", "x", " ", "EN", "DEN"]


def decode_pieces(ids: list[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def _stops_at(matcher: StopStringMatcher, ids: list[int]) -> int | None:
    return next((n for n in range(1, len(ids) + 1) if matcher(0, ids[:n])), None)


def test_a_stop_string_over_token_borders():
    matcher = StopStringMatcher(["END"], decode_pieces)
    assert _stops_at(matcher, [0, 1, 2, 3, 4]) == 4
    assert _stops_at(matcher, [0, 1, 2, 4, 3]) is None
    assert matcher.trim("Hello END now") == "Hello "


@pytest.mark.parametrize("stop", ["é", "→", "🦉", "a🦉b", "日本"])
def test_a_stop_string_of_several_bytes_a_character(stop):
    text = "x" * 40 + "aé→ 日 " + stop + "tail"
    first_end = text.find(stop) + len(stop)
    matcher = StopStringMatcher([stop], decode_bytes)
    ids = list(text.encode())
    assert _stops_at(matcher, ids) == len(text[:first_end].encode())
    assert matcher.trim(text) == text[: text.find(stop)]


def test_the_first_of_several_counts_however_the_text_is_cut_into_tokens():
    matcher = StopStringMatcher(["abc", "b"], decode_bytes)
    assert _stops_at(matcher, list(b"xabc")) == 3
    assert matcher.trim("xab") == matcher.trim("xabc") == "xa"
    assert StopStringMatcher(["bc", "abc"], decode_bytes).trim("xabc") == "x"


def test_special_tokens_inside_a_stop_string_do_not_hide_it():
    matcher = StopStringMatcher(["END"], decode_bytes)
    ids = [*b"some text before EN", *[300] * 50, *b"D"]
    assert _stops_at(matcher, ids) == len(ids)


def test_only_the_tail_is_decoded():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    matcher = StopStringMatcher(["STOP", "END"], decode)
    ids = list(b"some long text " * 100)
    assert not any(matcher(0, ids[:n]) for n in range(1, len(ids), 7))
    assert longest <= 20


def test_many_replacement_characters_do_not_stop_the_search():
    matcher = StopStringMatcher(["END"], decode_bytes)
    assert _stops_at(matcher, [0xFF] * 100 + list(b"END")) == 103


def test_no_stop_strings_never_stop():
    matcher = StopStringMatcher([], decode_bytes)
    assert not matcher(0, [1, 2]) and matcher.trim("text") == "text" and matcher.count_held("text") == 0


def test_one_string_is_not_taken_apart_and_an_empty_one_is_refused():
    assert StopStringMatcher("END", decode_bytes).stop_strings == ("END",)
    with pytest.raises(OLMoInputError, match="empty"):
        StopStringMatcher(["END", ""], decode_bytes)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_rows_stop_in_the_decoding_loop(num_beams):
    texts = ["one END and more", "two é stop", "three go on"]
    step = ScriptStep([list(t.encode()) for t in texts], N_BYTES)
    matcher = StopStringMatcher(["END", "é"], decode_bytes)
    params = GenerationParams(max_new_tokens=11, pad_token_id=0, num_beams=num_beams, length_penalty=0.0)
    ids = generate(step, step.first_logits() * 10, params, is_stopped=matcher).token_ids
    assert [decode_bytes(row) for row in ids.tolist()] == ["one END\0\0\0\0", "two é" + "\0" * 5, "three go on"]
    assert torch.equal(ids[0], torch.tensor(list(b"one END\0\0\0\0")))


@pytest.mark.parametrize("n_chars", [1, 2, 3, 50])
@pytest.mark.parametrize("text", ["no stop here EN", "a END b", "ENEND", "</pol", "x</point>y END", ""])
def test_a_filter_shows_what_trimming_leaves(text, n_chars):
    matcher = StopStringMatcher(["END", "</point>"], decode_bytes)
    stream = StopStringFilter(matcher)
    shown = [stream.push(text[i : i + n_chars]) for i in range(0, len(text), n_chars)]
    assert "".join(shown) + stream.finish() == matcher.trim(text)
    assert stream.is_stopped == (matcher.trim(text) != text)
    assert stream.push("more") == ("" if stream.is_stopped else "more")


def test_a_filter_holds_back_no_more_than_it_must():
    stream = StopStringFilter(StopStringMatcher(["END"], decode_bytes))
    assert [stream.push(p) for p in ["go E", "N", "G", "E"]] == ["go ", "", "ENG", ""]
    assert stream.finish() == "E"

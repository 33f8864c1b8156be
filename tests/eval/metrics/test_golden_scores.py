"""Scores computed by hand (P39); the arithmetic stands beside each."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.eval.metrics.anls import anls
from olmo.eval.metrics.caption import cap_f1, cap_scores, word_overlap
from olmo.eval.metrics.choice import choose_option, nearest_option
from olmo.eval.metrics.clock import clock_scores
from olmo.eval.metrics.counting import count_scores, read_count
from olmo.eval.metrics.json_answer import json_scores
from olmo.eval.metrics.judges import WordJudge
from olmo.eval.metrics.mmmu import last_choice, open_answer
from olmo.eval.metrics.pointing import point_scores
from olmo.eval.metrics.relaxed import relaxed_accuracy
from olmo.eval.metrics.short_answer import contains, edit_distance, exact_match, short_answer
from olmo.eval.metrics.vqa import a_okvqa_accuracy, normalise_answer, vqa_accuracy, vqa_accuracy_of_three
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.points import Point

TEN = ["red"] * 2 + ["dark red"] * 3 + ["blue"] * 5


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Two  dogs.", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("youd've", "you'd've"),
        ("1,000 people", "1000 people"),  # a comma between digits: every mark is dropped
        ("red/blue", "red blue"),  # inside a word a mark becomes a blank
        ("red / blue", "red blue"),  # beside a blank it is dropped
        ("3.5 m.", "3.5 m"),  # a period stays before a digit
        ("it's", "it's"),
        ("a\nb\tc", "b c"),
    ],
)
def test_vqa_normalisation(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("answer", "official", "of_three"),
    [
        # 2 of 10 agree. Leaving one of the 2 out: 1 left, 1/3; one of the 8: 2/3. (2 * 1/3 + 8 * 2/3) / 10 = 0.6
        ("red", 0.6, 2 / 3),
        # 3 agree: (3 * 2/3 + 7 * 1) / 10 = 0.9
        ("Dark red.", 0.9, 1.0),
        ("blue", 1.0, 1.0),
        ("green", 0.0, 0.0),
        ("I think.\nAnswer: blue", 1.0, 1.0),
    ],
)
def test_vqa_accuracy(answer: str, official: float, of_three: float) -> None:
    assert vqa_accuracy(answer, TEN) == pytest.approx(official)
    assert vqa_accuracy_of_three(answer, TEN) == pytest.approx(of_three)


def test_vqa_accuracy_with_few_people() -> None:
    assert vqa_accuracy("cat", ["cat"]) == 1.0
    assert vqa_accuracy("dog", ["cat"]) == 0.0
    # Of 2, 1 agrees. Leaving that one out: 0; the other: 1 of the 1 left. (0 + 1) / 2
    assert vqa_accuracy("cat", ["cat", "dog"]) == 0.5
    assert vqa_accuracy_of_three("cat", ["cat", "dog"]) == 0.5


def test_a_okvqa_accuracy_keeps_articles() -> None:
    assert a_okvqa_accuracy("Cat", ["cat"] * 2 + ["a cat"] * 8) == pytest.approx(2 / 3)
    assert a_okvqa_accuracy("a cat", ["cat"] * 2 + ["a cat"] * 8) == 1.0


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("same", "same") == 0


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("Invoice 12", ["invoice 12"], 1.0),
        ("invoice 13", ["invoice 12"], 0.9),  # 1 of 10 characters
        ("kitten", ["sitting"], 1 - 3 / 7),  # 3 of 7 characters, below the threshold
        ("abcd", ["abxy"], 0.0),  # 2 of 4 is the threshold itself
        ("cat", ["dog", "cats"], 0.75),  # the nearest counts: 1 of 4
        ("", ["cat"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls(answer: str, truth: list[str], score: float) -> None:
    assert anls(answer, truth) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("105", "100", 1.0),  # 5 % off is still right
        ("105.1", "100", 0.0),
        ("-95", "-100", 1.0),
        ("5%", "0.05", 1.0),
        ("5", "5%", 0.0),  # 5 is not 0.05: the official rule
        ("0.01", "0", 0.0),  # nothing is near 0 but 0
        ("0", "0", 1.0),
        ("Canada", "canada", 1.0),
        ("nan", "nan", 1.0),  # a name, not a number
        ("1e999", "100", 0.0),
    ],
)
def test_relaxed_accuracy(answer: str, truth: str, score: float) -> None:
    assert relaxed_accuracy(answer, [truth]) == score


def test_short_answer() -> None:
    assert short_answer("Because ...\nAnswer: two  cats ") == "two  cats"
    assert short_answer(" a   b ") == "a b"
    assert short_answer("x\ny\ny\nx\ny") == "y"
    assert short_answer("first\nsecond") == "first"
    assert exact_match("Yes", ["no", "yes"]) == 1.0 and exact_match("yes.", ["yes"]) == 0.0
    assert contains("It is a RED car", ["red"]) == 1.0 and contains("blue", ["red", " "]) == 0.0


OPTIONS = ["a cat", "a black cat", "a dog", "water"]


@pytest.mark.parametrize(
    ("answer", "chosen", "nearest"),
    [
        ("B", 1, 1),
        ("(c)", 2, 2),
        ("d.", 3, 3),
        ("C: a dog", 2, 2),
        ("option B", 1, 1),
        ("A black cat.", 1, 1),
        ("black", 1, 1),  # part of one option only
        ("cat", None, 0),  # part of two; "a cat" is 2 letters away, "a black cat" 8
        ("it is water", 3, 3),  # one option is part of it
        ("the a cat or a dog", None, 0),  # two are part of it; 13 letters to either, the first wins
        ("E", None, 3),  # no fifth option; "water" has an e: 4 changes, "a cat" and "a dog" 5
        ("wter", None, 3),
        ("", None, 0),
    ],
)
def test_multiple_choice(answer: str, chosen: int | None, nearest: int) -> None:
    assert choose_option(answer, OPTIONS) == chosen
    assert nearest_option(answer, OPTIONS) == nearest


def test_letters_as_options_mean_themselves() -> None:
    assert choose_option("B", ["C", "B", "A"]) == 1, "the option's own text comes before its place"
    assert choose_option("a", ["1", "2", "3"]) == 0


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("The answer is (B).", 1),
        ("(A) is wrong, so it is (C)", 2),
        ("I choose B because A is wrong", 0),  # the last letter that stands alone
        ("Looking at it for long I would say a dog", 2),  # no letter, a long text: by the words
        ("a dog", None),  # a short text must name a letter
        ("B", 1),
    ],
)
def test_mmmu_choice(answer: str, index: int | None) -> None:
    assert last_choice(answer, OPTIONS) == index


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("So the total is 1,234 m", ["1234"], 1.0),
        ("x = 3 and therefore the result is 0.333", ["0.33"], 1.0),  # two decimals
        ("The answer is photosynthesis", ["photosynthesis"], 1.0),
        ("The answer is 12", ["1"], 0.0),
        ("2.5e3", ["2500"], 1.0),
        ("vitamin c", ["c"], 1.0),  # " c": a letter with a blank beside it
        ("because", ["c"], 0.0),
    ],
)
def test_mmmu_open_answer(answer: str, truth: list[str], score: float) -> None:
    assert open_answer(answer, truth) == score


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ("3", 3),
        ("There are twelve.", 12),
        ("None", 0),
        ("There are none.", 0),
        ('Counting the <points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="cats">cats</points> shows a total of 2.', 2),
        ('<points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="cats">cats</points>', 2),
        ("5 cats", 5),
        ("3 cats and 4 dogs", None),
        ("no cats here", 0),
        ("many", None),
        ("about 2.5 cats", None),
        ("", None),
    ],
)
def test_read_count(answer: str, count: int | None) -> None:
    assert read_count(answer) == count


def test_count_scores() -> None:
    assert count_scores("4", 5) == {"correct": 0.0, "close": 1.0, "valid": 1.0, "correct_at_5": 0.0}
    assert count_scores("5", 5) == {"correct": 1.0, "close": 1.0, "valid": 1.0, "correct_at_5": 1.0}
    assert count_scores("lots", 5) == {"correct": 0.0, "close": 0.0, "valid": 0.0, "correct_at_5": 0.0}


def box(x0: int, y0: int, x1: int, y1: int, width: int = 200, height: int = 100) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_pointing_in_masks() -> None:
    # 200 x 100 px; objects around (20, 50) and (180, 50) px, that is (10, 50) and (90, 50) percent.
    masks = [box(10, 40, 30, 60), box(170, 40, 190, 60)]
    truth = [Point(10, 50), Point(90, 50)]
    both = '<points x1="12.0" y1="55.0" x2="89.0" y2="45.0" alt="c">c</points>'
    assert point_scores(both, truth, masks) == {"precision": 1, "recall": 1, "f1": 1}
    # Two right and one in between: precision 2/3, recall 1, F1 = 2 * 2/3 / (5/3) = 0.8
    three = '<points x1="12.0" y1="55.0" x2="50.0" y2="50.0" x3="89.0" y3="45.0" alt="c">c</points>'
    assert point_scores(three, truth, masks) == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 0.8})
    # Two points on one object: one is paired with the other object and misses it. 1/2, 1/2
    same = '<points x1="10.0" y1="50.0" x2="12.0" y2="50.0" alt="c">c</points>'
    assert point_scores(same, truth, masks) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    one = '<point x="90.0" y="50.0" alt="c">c</point>'
    assert point_scores(one, truth, masks) == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3})
    edge = '<point x="100.0" y="50.0" alt="c">c</point>'
    assert point_scores(edge, [Point(99, 50)], [box(0, 0, 200, 100)])["f1"] == 0, "the far edge is outside"


def test_pointing_where_there_is_nothing() -> None:
    assert point_scores("There are none.", []) == {"precision": 1, "recall": 1, "f1": 1}
    assert point_scores('<point x="1" y="1" alt="c">c</point>', []) == {"precision": 0, "recall": 0, "f1": 0}
    assert point_scores("There are none.", [Point(1, 1)]) == {"precision": 0, "recall": 0, "f1": 0}


def test_pointing_by_nearness() -> None:
    # 3 and 4 percent off is 5 percent in all, which still counts; 4 and 4 is 5.66.
    assert point_scores('<point x="13.0" y="54.0" alt="c">c</point>', [Point(10, 50)])["f1"] == 1
    assert point_scores('<point x="14.0" y="54.0" alt="c">c</point>', [Point(10, 50)])["f1"] == 0
    with pytest.raises(OLMoInputError, match="1 masks for 2 points"):
        point_scores("", [Point(1, 1), Point(2, 2)], [box(0, 0, 1, 1)])


def test_clock() -> None:
    assert clock_scores("It is 10:09:30 AM", "10:09") == {"exact": 1, "close": 1, "hour": 1, "minute": 1}
    assert clock_scores("22:10", "10:09") == {"exact": 0, "close": 1, "hour": 1, "minute": 0}
    # One minute before and after twelve o'clock.
    assert clock_scores("11:59", "12:00") == {"exact": 0, "close": 1, "hour": 0, "minute": 0}
    assert clock_scores("ten past nine", "9:10") == {"exact": 0, "close": 0, "hour": 0, "minute": 0}
    assert clock_scores("There is no clock.", "") == {"exact": 1, "close": 1, "declined": 1}
    assert clock_scores("3:40", "") == {"exact": 0, "close": 0, "declined": 0}
    with pytest.raises(OLMoInputError, match="h:mm"):
        clock_scores("3:40", "noon")


def test_caption_scores() -> None:
    said = ["A black cat sits on a red sofa. A lamp stands behind it."]
    caption = "A black cat sits on a sofa. The floor is wooden."
    scores = cap_scores(caption, said, WordJudge())
    # Said: "black cat sits red sofa" has 4 of 5 words in the caption, "lamp stands behind" none: recall 1/2.
    # Made: "black cat sits sofa" has 4 of 4 there, "floor wooden" none: precision 1/2.
    assert scores == {"n_statements": 2, "recall": 0.5, "precision": 0.5}
    assert cap_f1(0.5, 0.25) == pytest.approx(1 / 3)
    assert cap_f1(0.0, 1.0) == 0.0
    assert cap_scores("", said, WordJudge()) == {"n_statements": 0, "recall": 0.0}, "no statement, no precision"


def test_word_overlap() -> None:
    # 2 words of 3 and of 5 in common: 2 * 2 / (3 + 5)
    assert word_overlap("a red car", ["the red car is parked"]) == 0.5
    assert word_overlap("one", ["two", "one"]) == 1.0
    assert word_overlap("", ["one"]) == 0.0


def test_json_scores() -> None:
    truth = '{"cats": 2, "dogs": 1}'
    assert json_scores('{"dogs": 1, "cats": 2}', truth) == {"valid": 1, "exact": 1, "fields": 1}
    # Of cats, dogs, birds only cats agrees.
    assert json_scores('```json\n{"cats": 2, "birds": 0}\n```', truth) == {"valid": 1, "exact": 0, "fields": 1 / 3}
    assert json_scores("[1, 2]", "[1, 2]") == {"valid": 1, "exact": 1, "fields": 1}
    assert json_scores("two cats", truth) == {"valid": 0, "exact": 0, "fields": 0}
    assert json_scores("[" * 100_000, truth)["valid"] == 0

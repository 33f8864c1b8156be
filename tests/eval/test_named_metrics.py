from __future__ import annotations

import numpy as np
import pytest

from olmo.eval.items import Item
from olmo.eval.metrics.judges import WordJudge
from olmo.eval.metrics.named import METRICS, metric_named
from olmo.eval.reference import Reference
from olmo.eval.scoring import score_item, summarise
from olmo.exceptions import OLMoConfigurationError, OLMoInputError


def score(name: str, text: str, **known: object) -> dict[str, float]:
    metric = metric_named(name, WordJudge())
    item = Item(0, 0, 1, {}, "?", Reference(**known))
    found = score_item(item, text, [metric], "here").scores
    return {key.removeprefix(f"{name}/"): value for key, value in found.items()}


def test_every_metric_gives_its_main_figure_for_a_right_answer() -> None:
    point = '<point x="50.0" y="50.0" alt="a">a</point>'
    right = {
        "count": ("2", {"metadata": {"count": 2}}),
        "points": (point, {"points": ((50.0, 50.0),), "point_scale": 100.0}),
        "clock": ("10:09", {"answers": ("10:09",)}),
        "json": ("[1]", {"answers": ("[1]",)}),
        "choice": ("B", {"options": ("cat", "dog"), "answer_idx": 1}),
        "choice_by_kind": ("B", {"options": ("cat", "dog"), "answer_idx": 1}),
        "ai2d": ("dog", {"options": ("cat", "dog"), "answers": ("dog",)}),
        "cap_f1": ("A cat sits.", {"answers": ("A cat sits.",)}),
    }
    for name in set(METRICS) - {"scene", "moving_scene"}:
        text, known = right.get(name, ("cat", {"answers": ("cat", "cat", "cat")}))
        metric = metric_named(name, WordJudge())
        scored = score_item(Item(0, 0, 1, {}, "?", Reference(**known)), text, [metric], "here")
        assert summarise([scored], [metric])[0][f"{name}/{metric.main}"] == 1.0, name


def test_kinds_of_questions_are_told_apart() -> None:
    options = {"options": ("cat", "dog"), "answer_idx": 1}
    long = score("choice_by_kind", "B", **options, metadata={"duration": "Long Video", "area": "memory"})
    assert long == {"accuracy": 1.0, "named": 1.0, "accuracy_long_video": 1.0}
    metric = metric_named("choice_by_kind")
    kinds = ["short"] * 3 + ["long"]
    items = [Item(i, 0, 1, {}, "?", Reference(**options, metadata={"duration": kind})) for i, kind in enumerate(kinds)]
    scored = [score_item(item, "B" if item.row < 3 else "A", [metric], "here") for item in items]
    means, counts = summarise(scored, [metric])
    assert means["choice_by_kind/accuracy"] == 0.75 and means["choice_by_kind/mean_of_kinds"] == 0.5
    assert counts["choice_by_kind/accuracy_short"] == 3 and means["choice_by_kind/accuracy_long"] == 0.0


def test_words_count_by_the_nearest_answer() -> None:
    found = score("words", "a red ball", answers=("blue box", "red ball"), metadata={"type": "DO"})
    assert found == {"f1": pytest.approx(0.8), "exact": 0.0, "f1_do": pytest.approx(0.8)}
    assert score("words", "Red ball", answers=("red ball",)) == {"f1": 1.0, "exact": 1.0}
    assert score("words", "stone", answers=("red ball",))["f1"] == 0.0


def test_who_wrote_the_question_is_told_apart() -> None:
    assert score("relaxed", "5", answers=("5",), metadata={"human_or_machine": 0}) == {
        "accuracy": 1.0,
        "accuracy_human": 1.0,
    }
    assert set(score("relaxed", "5", answers=("5",), metadata={"human_or_machine": 1})) == {
        "accuracy",
        "accuracy_augmented",
    }
    assert score("relaxed", "5", answers=("5",)) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("lettered", "clear", "kinds"),
    [(True, True, {"transparent"}), (True, False, {"opaque"}), (False, False, {"transparent", "opaque"})],
)
def test_boxes_of_diagrams(lettered: bool, clear: bool, kinds: set[str]) -> None:
    metadata = {"abc_label": lettered, "has_transparent_box": clear}
    found = score("ai2d", "A", options=("x", "y"), answer_idx=0, metadata=metadata)
    assert set(found) == {"accuracy", "named"} | kinds


def test_counts_come_from_where_they_are() -> None:
    assert score("count", "3", answers=("Counting shows a total of 3.",))["correct"] == 1
    assert score("count", "0", points=())["correct"] == 1
    assert score("count", "2", points=((1, 1), (2, 2)), metadata={"count": 2})["correct_at_2"] == 1


def test_masks_may_be_lists() -> None:
    known = {"points": ((50.0, 50.0),), "point_scale": 100.0, "metadata": {"masks": [[[0, 0], [0, 1]]]}}
    assert score("points", '<point x="50" y="50" alt="a">a</point>', **known)["f1"] == 1
    known["metadata"] = {"masks": [np.zeros((2, 2))]}
    assert score("points", '<point x="50" y="50" alt="a">a</point>', **known)["f1"] == 0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_row_without_the_truth_is_an_error_that_says_what_to_give(name: str) -> None:
    with pytest.raises(OLMoInputError, match=f"^here: metric '{name}': .*(give|need|use)"):
        score(name, "text")


def test_names() -> None:
    with pytest.raises(OLMoConfigurationError, match=r"'bleu' is not a metric; there are .*anls"):
        metric_named("bleu")
    with pytest.raises(OLMoConfigurationError, match="cap_f1 needs a judge"):
        metric_named("cap_f1")


def test_means_are_over_the_answers_that_a_figure_concerns() -> None:
    metrics = [METRICS["count"], METRICS["exact"]]
    truth = (("2", 2), ("3", 12), ("12", 12))
    scored = [
        score_item(Item(i, 0, 1, {}, "?", Reference(answers=(str(n),))), text, metrics, "here")
        for i, (text, n) in enumerate(truth)
    ]
    means, counts = summarise(scored, metrics)
    assert list(means) == [
        *("count/correct", "count/close", "count/correct_at_2", "count/correct_at_12", "count/valid"),
        "exact/accuracy",
    ]
    assert means["count/correct"] == pytest.approx(2 / 3) and means["count/correct_at_12"] == 0.5
    assert counts["count/correct_at_12"] == 2 and counts["count/valid"] == 3


def test_cap_f1_joins_the_means() -> None:
    """Recall 1 and 0, precision 1 and 1/2: F1 of 1/2 and 3/4 is 0.6, not the mean of each caption's F1."""
    metric = metric_named("cap_f1", WordJudge())
    said = (("Cat sits.", "Cat sits."), ("Cat sits. Moon shines.", "Cat sits happily outside today."))
    scored = [
        score_item(Item(i, 0, 1, {}, "?", Reference(answers=(answer,))), text, [metric], "here")
        for i, (text, answer) in enumerate(said)
    ]
    assert [one.scores["cap_f1/recall"] for one in scored] == [1, 0]
    means, _ = summarise(scored, [metric])
    assert means["cap_f1/recall"] == 0.5 and means["cap_f1/precision"] == 0.75
    assert means["cap_f1/f1"] == pytest.approx(0.6)
    assert next(iter(means)) == "cap_f1/f1"

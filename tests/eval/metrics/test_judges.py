from __future__ import annotations

from olmo.eval.metrics.judges import AskingJudge, WordJudge


def test_word_judge() -> None:
    judge = WordJudge()
    assert judge.statements("A cat sits. It is black!\nA sofa") == ["A cat sits", "It is black", "A sofa"]
    assert judge.agreements(["A cat", "A dog", "the"], ["the cat sleeps"]) == [True, False, None]


def test_asking_judge_reads_lists() -> None:
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "1. There is a cat.\n2) The cat is black.\n\nnothing else"

    assert AskingJudge(ask).statements("A black cat.") == ["There is a cat.", "The cat is black."]
    assert "A black cat." in asked[0]
    assert AskingJudge(ask).statements("  ") == [] and len(asked) == 1


def test_asking_judge_reads_verdicts() -> None:
    judge = AskingJudge(lambda prompt: "1. Yes\n3: no\n2. unclear\n9. yes")
    assert judge.agreements(["a", "b", "c", "d"], ["text"]) == [True, None, False, None]
    assert AskingJudge(lambda prompt: "?").agreements([], ["text"]) == []

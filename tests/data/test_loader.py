from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from olmo.data.loader import EXAMPLES_PER_TASK, StepBatch, StepLoader
from olmo.exceptions import OLMoConfigurationError, OLMoInputError


class Numbers:
    """Example i is the number i; some cannot be read."""

    def __init__(self, unreadable: Sequence[int] = (), missing: Sequence[int] = ()) -> None:
        self.unreadable, self.missing = set(unreadable), set(missing)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.missing:
            raise FileNotFoundError(f"{index}.png")
        return {"number": index, "metadata": {"place": f"numbers.jsonl:{index + 1}"}, "bad": index in self.unreadable}


def prepare(example: Any, rng: np.random.Generator) -> dict[str, Any]:
    if example["bad"]:
        raise OLMoInputError("no answer")
    return {"input_ids": torch.full((1 + example["number"] % 5,), example["number"]), "drawn": rng.random()}


def collate(rows: Sequence[Any]) -> dict[str, Any]:
    """What the rows hold, written so that tests can read it: numbers in a tensor, draws and row sizes beside it."""
    lists = [row if isinstance(row, list) else [row] for row in rows]
    return {
        "numbers": torch.tensor([int(e["input_ids"][0]) for row in lists for e in row]),
        "drawn": [e["drawn"] for row in lists for e in row],
        "rows": [[len(e["input_ids"]) for e in row] for row in lists],
        "is_list": [isinstance(row, list) for row in rows],
    }


def loader(stream: Any = None, **values: Any) -> StepLoader:
    values = {"batch_size": 8, "micro_batch_size": 3, "max_steps": 4, "seed": 1, **values}
    return StepLoader(Numbers() if stream is None else stream, prepare, collate, **values)


def numbers(batch: StepBatch) -> list[int]:
    return [n for micro in batch.micro_batches for n in micro["numbers"].tolist()]


def drawn(batches: Sequence[StepBatch]) -> dict[int, float]:
    return {
        n: d for b in batches for m in b.micro_batches for n, d in zip(m["numbers"].tolist(), m["drawn"], strict=True)
    }


def test_steps_hold_the_examples_in_order_in_micro_batches():
    batches = list(loader(first_example=100))
    assert [b.step for b in batches] == [0, 1, 2, 3]
    assert [numbers(b) for b in batches] == [list(range(100 + 8 * s, 108 + 8 * s)) for s in range(4)]
    assert [len(m["numbers"]) for m in batches[0].micro_batches] == [3, 3, 2]
    assert all(b.n_examples == 8 and b.bad == [] and b.wait_s > 0 for b in batches)


def test_a_run_resumes_from_its_step_number():
    straight = list(loader())
    resumed = list(loader(first_step=2))
    assert [(b.step, numbers(b)) for b in resumed] == [(b.step, numbers(b)) for b in straight[2:]]
    assert drawn(resumed).items() <= drawn(straight).items()
    assert drawn(list(loader(seed=2)))[0] != drawn(straight)[0]
    assert list(loader(first_step=4)) == []


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_a_step_whatever_their_number(world_size):
    alone = list(loader())
    ranks = [list(loader(rank=r, world_size=world_size)) for r in range(world_size)]
    for step in range(4):
        assert sorted(n for rank in ranks for n in numbers(rank[step])) == numbers(alone[step])
    assert drawn([b for rank in ranks for b in rank]) == drawn(alone)
    assert {rank[0].n_examples for rank in ranks} <= {8 // world_size, 8 // world_size + 1}


@pytest.mark.parametrize("pack", [False, True])
def test_workers_change_nothing(pack):
    options = {"pack": pack, "sequence_length": 10, "batch_size": 2 * EXAMPLES_PER_TASK + 5, "max_steps": 3}
    own, others = list(loader(**options)), list(loader(n_workers=2, **options))
    for a, b in zip(own, others, strict=True):
        assert (a.step, numbers(a), a.n_examples) == (b.step, numbers(b), b.n_examples)
        assert [m["rows"] for m in a.micro_batches] == [m["rows"] for m in b.micro_batches]
    assert drawn(own) == drawn(others)
    assert not any(m["numbers"].is_shared() for b in others for m in b.micro_batches)


def test_a_large_step_is_made_in_pieces_without_small_micro_batches():
    (batch,) = loader(batch_size=200, micro_batch_size=7, max_steps=1)
    assert [len(m["numbers"]) for m in batch.micro_batches] == [7] * 28 + [4]
    assert numbers(batch) == list(range(200))


def test_packing_fills_rows_up_to_the_length():
    (batch,) = loader(batch_size=20, micro_batch_size=4, max_steps=1, pack=True, sequence_length=10)
    rows = [row for m in batch.micro_batches for row in m["rows"]]
    assert len(rows) == 6 and all(sum(row) <= 10 for row in rows)  # 60 tokens
    assert [len(m["rows"]) for m in batch.micro_batches] == [4, 2]
    assert sorted(numbers(batch)) == list(range(20)) and batch.n_examples == 20
    assert all(all(m["is_list"]) for m in batch.micro_batches)


def test_an_example_that_cannot_be_used_stops_the_run_by_name():
    steps = iter(loader(Numbers(unreadable=[9], missing=[12])))
    next(steps)
    with pytest.raises(OLMoInputError) as error:
        next(steps)
    assert str(error.value) == (
        "step 1 has 2 example(s) that cannot be used: example 9 of the stream (numbers.jsonl:10): no answer; "
        "example 12 of the stream: 12.png. Mend or remove them (`molmo data check` finds such rows), or go on without "
        "them with on_bad_example=skip"
    )
    with pytest.raises(OLMoInputError, match=r"has 8 example.*; and 3 more\. Mend"):
        list(loader(Numbers(missing=range(8)), n_workers=1))


def test_skipped_examples_are_left_out_and_told():
    batches = list(loader(Numbers(unreadable=[9], missing=[12]), on_bad_example="skip"))
    assert numbers(batches[1]) == [8, 10, 11, 13, 14, 15] and batches[1].n_examples == 6
    assert [len(m["numbers"]) for m in batches[1].micro_batches] == [3, 3]
    assert batches[1].bad == [
        "example 9 of the stream (numbers.jsonl:10): no answer",
        "example 12 of the stream: 12.png",
    ]
    assert [len(b.bad) for b in batches] == [0, 2, 0, 0]


def test_a_step_is_never_empty():
    stream = Numbers(missing=range(8, 18))
    second = list(loader(stream, on_bad_example="skip"))[1]
    assert numbers(second) == [18] and second.n_examples == 1 and len(second.bad) == 8
    # A rank whose share is one bad example takes the next good one, so that the others need not wait for it.
    shares = [next(iter(loader(Numbers(missing=[3]), rank=r, world_size=8, on_bad_example="skip"))) for r in range(8)]
    assert [numbers(s) for s in shares] == [[0], [1], [2], [4], [4], [5], [6], [7]]
    with pytest.raises(OLMoInputError, match=r"no example of this step or after it can be used\. step 0 has 8 example"):
        next(iter(loader(Numbers(missing=range(100)), on_bad_example="skip")))
    ending = [{"number": 0, "bad": True}, {"number": 1, "bad": True}]
    with pytest.raises(OLMoInputError, match="step 0 has 2 example"):
        next(iter(loader(ending, batch_size=2, on_bad_example="skip")))


def test_our_own_bugs_are_not_taken_for_bad_examples():
    class Broken:
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"numbre": index}

    with pytest.raises(KeyError):
        list(loader(Broken(), on_bad_example="skip"))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"batch_size": 1, "world_size": 2}, "batch_size: must be at least 2, got 1"),
        ({"micro_batch_size": 0}, "micro_batch_size: must be at least 1"),
        ({"rank": 1}, "rank: must be 0 to 0, got 1"),
        ({"first_example": -1}, "first_example: must be at least 0"),
        ({"pack": True}, "sequence_length: packing needs a length"),
        ({"on_bad_example": "ignore"}, "on_bad_example: 'ignore' is not one of 'raise', 'skip'"),
    ],
)
def test_mistakes_are_explained(values, match):
    with pytest.raises(OLMoConfigurationError, match=match):
        loader(**values)

from __future__ import annotations

from typing import Any

import pytest
import torch

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.collator import MMCollator
from olmo.preprocessing.packed import EXAMPLE_STRIDE, SHARED_SEGMENT, pack_examples


def text(n: int, **more: Any) -> dict[str, Any]:
    return {"input_ids": torch.arange(1, n + 1), "labels": torch.arange(n), "loss_masks": torch.ones(n), **more}


def pictured(n: int, n_crops: int, **more: Any) -> dict[str, Any]:
    index = torch.arange(2 * n_crops).reshape(n_crops, 2) % n
    index[0, 1] = -100
    crops = {"images": torch.rand(n_crops, 3, 4, 4), "image_masks": torch.rand(n_crops, 4), "image_input_idx": index}
    return text(n, **crops, **more)


def tree() -> dict[str, Any]:
    segments = torch.tensor([SHARED_SEGMENT, SHARED_SEGMENT, 1, 2])
    return pictured(4, 1, subsegment_ids=segments, position_ids=torch.tensor([0, 1, 2, 2]))


def test_examples_lie_one_behind_the_other_and_keep_their_positions():
    row = pack_examples([text(3), tree(), text(2)])
    assert row["input_ids"].tolist() == [1, 2, 3, 1, 2, 3, 4, 1, 2]
    assert row["labels"].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 1]
    assert row["position_ids"].tolist() == [0, 1, 2, 0, 1, 2, 2, 0, 1]
    first, second = EXAMPLE_STRIDE, 2 * EXAMPLE_STRIDE
    shared = first + SHARED_SEGMENT
    assert row["subsegment_ids"].tolist() == [1, 1, 1, shared, shared, first + 1, first + 2, second + 1, second + 1]


def test_pictures_move_with_their_example():
    examples = [text(3), pictured(5, 2), pictured(4, 1)]
    row = pack_examples(examples)
    assert row["image_input_idx"].tolist() == [[3, -100], [5, 6], [8, -100]]
    for key in ("images", "image_masks"):
        assert torch.equal(row[key], torch.cat([examples[1][key], examples[2][key]]))


def test_one_plain_example_stays_plain():
    example = pictured(4, 1, metadata={"id": 1})
    row = pack_examples([example])
    assert set(row) == set(example) - {"metadata"}
    assert all(row[key] is example[key] for key in row)
    assert "images" not in pack_examples([text(2), text(3)])


def test_examples_for_inference_have_no_labels():
    row = pack_examples([{"input_ids": torch.arange(2)}, {"input_ids": torch.arange(3)}])
    assert set(row) == {"input_ids", "position_ids", "subsegment_ids"}


def test_the_collator_takes_packed_rows_beside_plain_ones():
    rows = [[text(3, metadata={"id": 0}), pictured(4, 2, metadata={"id": 1})], text(2, metadata={"id": 2}), [tree()]]
    batch = MMCollator(None)(rows)
    assert batch["input_ids"].shape == (3, 7)
    assert batch["attention_mask"].sum(1).tolist() == [7, 2, 4]
    assert batch["subsegment_ids"][1].tolist() == [1, 1, -1, -1, -1, -1, -1]
    assert batch["images"].shape == (3, 2, 3, 4, 4)
    assert batch["image_input_idx"][0, 0].tolist() == [3, -100]
    assert batch["metadata"] == [[{"id": 0}, {"id": 1}], {"id": 2}, [{}]]
    assert "metadata" not in MMCollator(None, include_metadata=False)(rows)


def test_a_row_longer_than_the_length_is_cut_but_not_its_pictures():
    assert MMCollator(6)([[text(3), text(5)]])["input_ids"].tolist() == [[1, 2, 3, 1, 2, 3]]
    with pytest.raises(OLMoInputError, match="pictures are never cut"):
        MMCollator(5)([[text(3), pictured(6, 2)]])


def test_mistakes_are_explained():
    with pytest.raises(OLMoInputError, match="empty list"):
        MMCollator(None)([[text(2)], []])
    with pytest.raises(OLMoInputError, match="some examples have labels"):
        MMCollator(None)([[text(2), {"input_ids": torch.arange(3)}]])

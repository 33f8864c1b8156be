"""Batches: padding, ragged crops, mixtures, cutting."""

from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.collator import MMCollator


def text(length, **extra):
    ids = torch.arange(1, length + 1)
    return {"input_ids": ids, "labels": ids.clone(), "loss_masks": torch.ones(length), **extra}


def pictured(length, n_crops, first=1):
    n_tokens = 4
    idx = torch.full((n_crops, n_tokens), -100)
    idx[:, 0] = torch.arange(n_crops) + first
    return {
        **text(length),
        "images": torch.rand(n_crops, 3, 6, 6),
        "image_masks": torch.rand(n_crops, 9),
        "image_input_idx": idx,
    }


def test_right_padding_and_fillers():
    batch = MMCollator(None)([text(3), text(5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, -1, -1], [1, 2, 3, 4, 5]]
    assert batch["labels"].tolist()[0] == [1, 2, 3, -100, -100]
    assert batch["loss_masks"].tolist()[0] == [1, 1, 1, 0, 0] and batch["loss_masks"].dtype == torch.float32
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["attention_mask"].dtype == batch["input_ids"].dtype == torch.int64
    assert "images" not in batch and "position_ids" not in batch


def test_pad_to_max_is_pad_to_longest_and_more():
    rows = [pictured(3, 1), text(5)]
    short, long = MMCollator(8)(rows), MMCollator(8, "to_max")(rows)
    assert short["input_ids"].shape == (2, 5) and long["input_ids"].shape == (2, 8)
    for key in ("input_ids", "labels", "loss_masks", "attention_mask"):
        assert torch.equal(long[key][:, :5], short[key])
    assert (long["attention_mask"][:, 5:] == 0).all()
    assert torch.equal(long["images"], short["images"])


def test_ragged_crops_and_text_beside_pictures():
    rows = [pictured(6, 2), text(4), pictured(5, 3)]
    batch = MMCollator(None)(rows)
    assert batch["images"].shape == (3, 3, 3, 6, 6)
    assert batch["image_masks"].shape == (3, 3, 9) and batch["image_input_idx"].shape == (3, 3, 4)
    for key in ("images", "image_masks", "image_input_idx"):
        assert torch.equal(batch[key][0, :2], rows[0][key])
        assert torch.equal(batch[key][2], rows[2][key])
        assert (batch[key][0, 2:] == -1).all() and (batch[key][1] == -1).all()
        assert batch[key].dtype == rows[0][key].dtype


def test_a_plain_example_beside_a_tree_is_one_segment():
    tree = text(4, subsegment_ids=torch.tensor([10000, 1, 1, 2]), position_ids=torch.tensor([0, 1, 2, 1]))
    batch = MMCollator(None)([pictured(6, 1), tree])
    assert batch["subsegment_ids"].tolist() == [[1] * 6, [10000, 1, 1, 2, -1, -1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 1, -1, -1]]


def test_cuts_text_to_the_length():
    batch = MMCollator(4)([text(9), text(2)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [1, 2, -1, -1]]
    assert batch["labels"].shape == batch["loss_masks"].shape == batch["attention_mask"].shape == (2, 4)


def test_never_cuts_a_picture():
    assert MMCollator(6)([pictured(9, 3)])["input_ids"].shape == (1, 6)
    with pytest.raises(OLMoInputError, match=r"first 6 tokens, more than sequence_length=5.*max_crops"):
        MMCollator(5)([pictured(9, 3)])


def test_metadata():
    rows = [text(2, metadata={"id": 1}, name="a"), text(2)]
    assert MMCollator(None)(rows)["metadata"] == [{"id": 1, "name": "a"}, {}]
    assert "metadata" not in MMCollator(None, include_metadata=False)(rows)


def test_inference_examples_have_no_labels():
    batch = MMCollator(None)([{"input_ids": torch.arange(3)}])
    assert set(batch) == {"input_ids", "attention_mask", "metadata"}


def test_mistakes_are_explained():
    with pytest.raises(OLMoInputError, match="empty list"):
        MMCollator(None)([])
    with pytest.raises(OLMoInputError, match="some examples have labels"):
        MMCollator(None)([text(2), {"input_ids": torch.arange(3)}])
    with pytest.raises(OLMoConfigurationError, match="pad_mode: 'max' is not one of 'to_max' or None"):
        MMCollator(4, "max")
    with pytest.raises(OLMoConfigurationError, match="'to_max' pads to sequence_length, which is None"):
        MMCollator(None, "to_max")
    with pytest.raises(OLMoConfigurationError, match="sequence_length: must be at least 1"):
        MMCollator(0)

"""Token ids, masks and labels that cannot be meant."""

from __future__ import annotations

import pytest
import torch
from tiny import IM_PATCH, forward_error

BAD_TEXT = {
    "not a tensor": ([1, 2], "must be a tensor.*got list"),
    "empty": (torch.zeros(1, 0, dtype=torch.long), "at least one token"),
    "no rows": (torch.zeros(0, 3, dtype=torch.long), "at least one token"),
    "floats": (torch.zeros(1, 3), "must be integers"),
    "rank": (torch.zeros(1, 1, 3, dtype=torch.long), "must be integers"),
    "past the table": (torch.tensor([[268]]), "span 268..268; allowed are 0..267"),
    "below padding": (torch.tensor([[3, -2]]), "span -2..3"),
    "past the context": (torch.ones(1, 257, dtype=torch.long), "257 tokens exceed the context of 256"),
}


@pytest.mark.parametrize(("ids", "match"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_token_ids_that_cannot_be_meant(model, ids, match):
    forward_error(model, match, ids)


def test_text_tensors_that_do_not_fit(model):
    ids = torch.tensor([[1, 2, 3]])
    for name in ("labels", "loss_masks", "position_ids", "subsegment_ids"):
        forward_error(
            model, f"{name} has shape \\(1, 4\\), input_ids \\[1, 3\\]", ids, **{name: torch.ones(1, 4).long()}
        )
    forward_error(model, "attention_mask has shape \\(1, 2\\); wanted \\[1, 3\\]", ids, attention_mask=torch.ones(1, 2))
    forward_error(model, "attention_mask must be a tensor, got list", ids, attention_mask=[1, 1, 1])
    forward_error(model, "labels must be a tensor, got list", ids, labels=[1, 1, 1])
    forward_error(model, "labels hold 262; allowed are 0..259, and -100", ids, labels=torch.tensor([[1, IM_PATCH, 2]]))
    forward_error(model, "labels hold -1", ids, labels=torch.tensor([[1, 2, -1]]))
    forward_error(model, "'best' is not one of 'all', 'last', 'labels'", ids, logits_at="best")
    forward_error(model, "pass labels", ids, logits_at="labels")

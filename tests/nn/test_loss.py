from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from olmo.nn.loss import IGNORE, target_positions, weighted_cross_entropy
from olmo.nn.segments import EXAMPLE_STRIDE, SHARED_SEGMENT


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_each_label_is_predicted_from_the_token_before():
    rows, columns, targets = target_positions(torch.tensor([[7, IGNORE, 8, 9], [IGNORE, 3, IGNORE, IGNORE]]))
    assert rows.tolist() == [0, 0, 1]
    assert columns.tolist() == [1, 2, 0]
    assert targets.tolist() == [8, 9, 3]  # the label of a first token has nothing before it


def test_no_token_is_predicted_from_another_conversation():
    segments = torch.tensor([[SHARED_SEGMENT, SHARED_SEGMENT, 1, 1, 2, 2]])
    _, columns, targets = target_positions(torch.arange(6)[None], segments)
    assert columns.tolist() == [0, 1, 2, 4]
    assert targets.tolist() == [1, 2, 3, 5]


def test_no_token_is_predicted_from_another_example_of_a_packed_row():
    shared, later = SHARED_SEGMENT, EXAMPLE_STRIDE
    segments = torch.tensor([[shared, 1, 2, later + shared, later + 1, 2 * later + 1, 2 * later + 1, -1]])
    _, columns, _ = target_positions(torch.arange(8)[None], segments)
    assert columns.tolist() == [0, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sum_and_divisor_are_those_of_torch_in_float32(dtype):
    logits, targets = random_logits(6, 11).to(dtype), torch.tensor([0, 3, 10, 2, 2, 5])
    total, divisor = weighted_cross_entropy(logits, targets)
    assert total.dtype == divisor.dtype == torch.float32
    torch.testing.assert_close(total, F.cross_entropy(logits.float(), targets, reduction="sum"))
    assert divisor.item() == 6


def test_weights_scale_tokens_and_divisor_and_negative_ones_count_as_none():
    logits, targets = random_logits(4, 5), torch.tensor([0, 1, 2, 3])
    weights = torch.tensor([1.0, 0.5, -1.0, 0.0])
    total, divisor = weighted_cross_entropy(logits, targets, weights)
    each = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(total, each[0] + 0.5 * each[1])
    assert divisor.item() == 1.5


def test_z_loss_is_the_square_of_the_log_normaliser():
    logits, targets = random_logits(4, 5), torch.tensor([0, 1, 2, 3])
    plain, _ = weighted_cross_entropy(logits, targets)
    with_z, _ = weighted_cross_entropy(logits, targets, z_loss=0.1)
    torch.testing.assert_close(with_z - plain, 0.1 * logits.logsumexp(-1).square().sum())


@pytest.mark.parametrize("weights", [None, torch.zeros(0)], ids=["plain", "weighted"])
def test_no_targets_give_zero_with_a_gradient(weights):
    hidden = torch.ones(3, 4, requires_grad=True)
    logits = hidden[torch.zeros(0, dtype=torch.long)] @ torch.ones(4, 5)
    total, divisor = weighted_cross_entropy(logits, torch.zeros(0, dtype=torch.long), weights, z_loss=0.1)
    assert (total.item(), divisor.item()) == (0.0, 0.0)
    total.backward()
    assert torch.equal(hidden.grad, torch.zeros(3, 4))

"""Windows other than the configured ones: centred, with padding that nothing looks at."""

from __future__ import annotations

import pytest
import torch

from olmo.nn.image_pooling import AttentionPooling, MeanPooling, StackPooling, cut_windows, window_members


def test_padding_is_shared_out_to_all_sides():
    numbers = torch.arange(1.0, 26.0).view(1, 25, 1)
    windows = cut_windows(numbers, (5, 5), (3, 3), is_centred=True)
    assert windows.shape == (1, 4, 9, 1)
    assert windows[0, 0, :, 0].tolist() == [1, 2, 3, 6, 7, 8, 11, 12, 13]  # one row more is needed, and it goes below
    members = window_members((5, 5), (3, 3))
    assert members.sum(dim=1).tolist() == [9, 6, 6, 4]
    even = cut_windows(torch.arange(1.0, 17.0).view(1, 16, 1), (4, 4), (3, 3), is_centred=True)
    assert even[0, 0, :, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 5, 6]
    assert window_members((4, 4), (3, 3))[0].tolist() == [False] * 4 + [True] * 2 + [False] + [True] * 2
    assert window_members((6, 6), (3, 3)) is None


def test_every_patch_is_in_one_window_at_any_size():
    for grid in range(1, 28):
        for pool in range(1, 10):
            windows = cut_windows(torch.arange(1.0, grid * grid + 1).view(1, -1, 1), (grid, grid), (pool, pool), True)
            members = window_members((grid, grid), (pool, pool))
            found = windows[0, :, :, 0] if members is None else windows[0, :, :, 0][members]
            assert sorted(found.flatten().tolist()) == list(range(1, grid * grid + 1))
            assert windows.shape[1] == (-(-grid // pool)) ** 2
            assert members is None or bool(members.any(dim=1).all())


@pytest.mark.parametrize("has_mean_query", [True, False])
def test_attention_over_members_alone(has_mean_query):
    pooling = AttentionPooling(8, 8, 2, has_mean_query=has_mean_query)
    pooling.reset_parameters(torch.Generator().manual_seed(0))
    windows, members = (
        torch.zeros(2, 3, 4, 8),
        torch.tensor([[True] * 4, [False, True, True, False], [False] * 3 + [True]]),
    )
    windows[:, members] = torch.randn(2, 7, 8)
    pooled = pooling(windows, members)
    for window in range(3):
        alone = windows[:, window : window + 1, members[window]]
        torch.testing.assert_close(pooled[:, window : window + 1], pooling(alone))


def test_means_over_members_alone():
    windows = torch.tensor([[[[2.0], [4.0], [0.0]]]])
    members = torch.tensor([[True, True, False]])
    assert MeanPooling(1)(windows, members).item() == 3.0
    assert MeanPooling(1)(windows).item() == 2.0
    assert StackPooling(1, 1)(windows, members).item() == 3.0  # 1 x 1 windows that are handed larger ones
    assert StackPooling(1, 3)(windows).shape == (1, 1, 3)

from __future__ import annotations

import torch

from olmo.nn.segments import EXAMPLE_STRIDE, SHARED_SEGMENT, example_of, is_shared
from olmo.preprocessing import packed

LATER = EXAMPLE_STRIDE


def test_preprocessing_numbers_segments_as_the_model_reads_them():
    assert (packed.SHARED_SEGMENT, packed.EXAMPLE_STRIDE) == (SHARED_SEGMENT, EXAMPLE_STRIDE)


def test_example_and_shared_part_of_a_token():
    ids = torch.tensor([SHARED_SEGMENT, 1, 2, LATER + SHARED_SEGMENT, LATER + 1, 3 * LATER + 7, -1])
    assert example_of(ids).tolist() == [0, 0, 0, 1, 1, 3, -1]
    assert is_shared(ids).tolist() == [True, False, False, True, False, False, False]

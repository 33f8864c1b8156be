from __future__ import annotations

import numpy as np
import pytest

from olmo.exceptions import OLMoInputError
from olmo.viz.contact_sheet import CELL_PX, contact_sheet, shrink

PICTURES = [np.full((30, 60, 3), 10 * i, np.uint8) for i in range(1, 8)]


def test_pictures_stand_row_by_row():
    sheet = np.asarray(contact_sheet(PICTURES, [""] * 7, n_columns=3))
    assert [sheet[10 + 58 * (i // 3), 10 + 68 * (i % 3), 0] for i in range(7)] == [10, 20, 30, 40, 50, 60, 70]
    assert sheet[10 + 2 * 58, 10 + 68].tolist() == [255, 255, 255]


def test_texts_are_written_and_make_room():
    sheets = [np.asarray(contact_sheet(PICTURES[:1], [text])) for text in ("", "12.50 s   #375", "x" * 99)]
    assert (sheets[0] != sheets[0][0, 0]).any() and sheets[1].shape[1] > sheets[0].shape[1]
    assert (sheets[1][40:] < 100).any() and sheets[2].shape[1] > 5 * sheets[0].shape[1]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((60, 30), (60, 30)), ((960, 480), (240, 120)), ((1, 4000), (1, 240)), ((480, 960), (120, 240))],
)
def test_large_pictures_are_made_smaller(size, wanted):
    width, height = size
    small = shrink(np.zeros((height, width, 3), np.uint8))
    assert small.shape == (*wanted[::-1], 3) and max(small.shape) <= CELL_PX


@pytest.mark.parametrize(
    ("pictures", "texts", "columns", "message"),
    [([], [], None, "1 to 1024 pictures"), (PICTURES, [""], None, "7 texts"), (PICTURES, [""] * 7, 0, "one column")],
)
def test_values_are_checked(pictures, texts, columns, message):
    with pytest.raises(OLMoInputError, match=message):
        contact_sheet(pictures, texts, n_columns=columns)

"""Scenes as a source: drawn pictures that never run out."""

from __future__ import annotations

from typing import Any

from olmo.data.row_source import RowSource
from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.scenes_config import ScenesConfig


class ScenesSource(RowSource):
    """`ScenesDataset` by row; every row is another picture, so passes make no difference."""

    def __init__(self, config: ScenesConfig | None = None, split: str = "train", name: str = "scenes") -> None:
        self.name, self.dataset = name, ScenesDataset(config, split)

    def __len__(self) -> int:
        return len(self.dataset)

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        return self.dataset[row]

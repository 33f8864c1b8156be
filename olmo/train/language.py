"""The language task: the whole model learns to answer questions about scenes, several questions a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from olmo.data.scenes.dataset import ScenesDataset
from olmo.models.molmo.molmo import Molmo
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.train.train_config import TrainConfig


class _PreprocessedDataset(Dataset[dict[str, Any]]):
    """Raw examples through the preprocessor; example i always gets the same random prompt choices."""

    def __init__(self, raw: ScenesDataset, preprocessor: Preprocessor, seed: int) -> None:
        self.raw, self.preprocessor, self.seed = raw, preprocessor, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.preprocessor(self.raw[index], rng=np.random.default_rng([self.seed, index]))


class LanguageTask:
    """Trains `Molmo` with the next-token loss on answers."""

    def __init__(self, config: TrainConfig, model: Molmo) -> None:
        self.module: nn.Module = model
        self.model, self.config = model, config
        raw = ScenesDataset(config.scenes, split="train")
        preprocessor = model.config.build_preprocessor(for_inference=False, is_training=True)
        self.dataset: Dataset[Any] = _PreprocessedDataset(raw, preprocessor, config.seed)
        self.collator = model.config.build_collator(model.config.llm.max_sequence_length, None, include_metadata=False)

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A padded batch."""
        return self.collator(examples)

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Connector, ViT and LLM."""
        return self.model.components()

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean cross-entropy over answer tokens."""
        out = self.model(**batch, logits_at="labels", z_loss=self.config.z_loss)
        assert out.loss is not None, "labels were given"
        return out.loss, {}

    def export(self, folder: Path) -> None:
        """The whole model as a native checkpoint."""
        self.model.save_checkpoint(folder, sharded=False)

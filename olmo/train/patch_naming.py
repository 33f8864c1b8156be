"""The patch-naming task: a ViT learns what each patch of a scene shows, and where the thing it belongs to is.

Scenes knows the mask of every object, so each patch has an exact answer: the kind of thing, the two coordinates of that
thing's point, and whether the point lies in this patch. Five minutes of it give a ViT whose features a small language
model can read; without it the language loss alone needs hours on a CPU. The heads are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from olmo.checkpoint.native import save_checkpoint
from olmo.data.scenes.art import concepts
from olmo.data.scenes.dataset import ScenesDataset
from olmo.data.scenes.patch_targets import patch_targets
from olmo.data.scenes.signs import WORDS
from olmo.models.molmo.molmo import Molmo
from olmo.nn.image_vit import patchify
from olmo.preprocessing.multicrop import make_crops
from olmo.train.train_config import TrainConfig

IGNORE = -100
NO_SIGN_WEIGHT = 0.02  # about one patch in thirty shows a sign
CENTRE_WEIGHT = 4.0  # few patches hold a point; this keeps the head from always saying no


class PatchHeads(nn.Module):
    """A ViT and the linear heads that name its patches."""

    def __init__(self, model: Molmo, sizes: Mapping[str, int]) -> None:
        super().__init__()
        backbone = model.vision_backbone
        assert backbone is not None, "patch naming needs a vision backbone"
        self.image_vit = backbone.image_vit
        self.patch_size = self.image_vit.spec.patch_size
        self.layer = max(layer % self.image_vit.spec.n_layers for layer in backbone.config.layers)
        self.sizes = dict(sizes)
        width = self.image_vit.spec.d_model
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, sum(sizes.values()))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits `[M, P, size]` of each head for pixels `[M, 3, H, W]`."""
        (features,) = self.image_vit(patchify(images, self.patch_size), layers=(self.layer,))
        logits = self.heads(self.norm(features)).split(tuple(self.sizes.values()), dim=-1)
        return dict(zip(self.sizes, logits, strict=True))


class _PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Endless stream of scenes as pixels and patch targets."""

    def __init__(self, scenes: ScenesDataset, model: Molmo, n_bins: int) -> None:
        assert model.config.image_spec is not None, "patch naming needs a vision backbone"
        self.scenes, self.spec, self.config = scenes, model.config.image_spec, model.config.mm_preprocessor
        self.n_bins = n_bins

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scene = self.scenes.scene(index)
        crops = make_crops(np.asarray(scene.image), self.spec, self.config)
        targets = patch_targets(scene, grid=self.spec.grid, n_bins=self.n_bins)
        return {
            "images": torch.from_numpy(np.asarray(crops.images[0])),
            "kind": torch.from_numpy(targets.kind),
            "x_bin": torch.from_numpy(targets.x_bin),
            "y_bin": torch.from_numpy(targets.y_bin),
            "centre": torch.from_numpy(targets.is_centre).float(),
            "word": torch.from_numpy(targets.word),
        }


class PatchNamingTask:
    """Trains `model.vision_backbone.image_vit`; exports a checkpoint that holds only that."""

    def __init__(self, config: TrainConfig, model: Molmo) -> None:
        self.model = model
        scenes = ScenesDataset(config.scenes, split="train")
        n_bins = round(100.0 / config.scenes.point_step_percent)
        sizes = {"kind": 1 + len(concepts()), "x_bin": n_bins, "y_bin": n_bins, "centre": 1, "word": 1 + len(WORDS)}
        self.module: nn.Module = PatchHeads(model, sizes)
        self.dataset: Dataset[Any] = _PatchDataset(scenes, model, n_bins)

    def collate(self, examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Stack equal-sized tensors."""
        return {key: torch.stack([e[key] for e in examples]) for key in examples[0]}

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Heads learn at the connector's rate."""
        named = dict(self.module.named_parameters())
        return {
            "vit": {n: p for n, p in named.items() if n.startswith("image_vit.")},
            "connector": {n: p for n, p in named.items() if not n.startswith("image_vit.")},
        }

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of the cross-entropies (coordinates at half weight) and of the centre's binary one."""
        logits = self.module(batch["images"])
        losses = {
            name: F.cross_entropy(logits[name].flatten(0, 1), batch[name].flatten(), ignore_index=IGNORE)
            for name in ("kind", "x_bin", "y_bin")
        }
        weights = torch.ones(logits["word"].shape[-1])
        weights[0] = NO_SIGN_WEIGHT
        losses["word"] = F.cross_entropy(
            logits["word"].flatten(0, 1), batch["word"].flatten(), weights, ignore_index=IGNORE
        )
        centre = logits["centre"].squeeze(-1)  # [M, P]
        losses["centre"] = F.binary_cross_entropy_with_logits(
            centre, batch["centre"], pos_weight=centre.new_tensor(CENTRE_WEIGHT)
        )
        total = losses["kind"] + 0.5 * (losses["x_bin"] + losses["y_bin"]) + losses["centre"] + losses["word"]
        metrics = {f"loss_{k}": float(v.detach()) for k, v in losses.items()}
        return total, {**metrics, **_shares_right(logits, batch)}

    def export(self, folder: Path) -> None:
        """The ViT alone, under the names it has in the whole model; load with strict=False."""
        holder = nn.Module()
        holder.vision_backbone = nn.Module()
        holder.vision_backbone.image_vit = self.module.image_vit
        save_checkpoint(holder, folder, sharded=False)


@torch.no_grad()
def _shares_right(logits: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Shares of object patches named and placed (within a bin), and of sign patches read."""
    things, signs = batch["kind"] > 0, batch["word"] > 0
    named = logits["kind"].argmax(-1) == batch["kind"]
    placed = (logits["x_bin"].argmax(-1) - batch["x_bin"]).abs() <= 1
    read = logits["word"].argmax(-1) == batch["word"]
    shares = {"patches_named": named[things], "patches_placed": placed[things], "patches_read": read[signs]}
    return {k: float(v.float().mean()) for k, v in shares.items() if len(v)}

"""The patch-naming task: a ViT learns what each patch of a scene shows, and where the thing it belongs to is.

Scenes knows the mask of every object, so each patch has an exact answer: the kind of thing, the two coordinates of that
thing's point, and whether the point lies in this patch. Five minutes of it give a ViT whose features a small language
model can read; without it the language loss alone needs hours on a CPU. The heads are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from olmo.checkpoint.native import save_checkpoint
from olmo.data.mixture import open_mixture
from olmo.data.scenes.art import concepts
from olmo.data.scenes.patch_targets import patch_targets
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.data.scenes.signs import LETTERS, WORDS
from olmo.data.source import Source, open_source
from olmo.data.source_config import SourceKind
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.flops import vit_flops
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.image_vit import patchify
from olmo.preprocessing.multicrop import make_crops
from olmo.train.task import AddUp, Batch, Collate, Prepare, Tally
from olmo.train.train_config import TrainConfig

HEADS = ("kind", "x_bin", "y_bin", "centre", "word", "letter")
SHARES = ("patches_named", "patches_placed", "patches_read", "patches_spelt")
IGNORE = -100
NO_SIGN_WEIGHT = 0.02  # about one patch in thirty shows a sign
CENTRE_WEIGHT = 4.0  # few patches hold a point; this keeps the head from always saying no


class PatchHeads(nn.Module):
    """A ViT and the linear heads that name its patches."""

    def __init__(self, model: ModelBase, sizes: Mapping[str, int]) -> None:
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


class PreparePatches:
    """Scenes to pixels and what each patch shows."""

    def __init__(self, config: MolmoConfig, n_bins: int) -> None:
        assert config.image_spec is not None, "patch naming needs a vision backbone"
        self.spec, self.config, self.n_bins = config.image_spec, config.mm_preprocessor, n_bins

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Tensors of one scene; nothing is drawn."""
        scene = example["metadata"]["scene"]
        crops = make_crops(np.asarray(scene.image), self.spec, self.config)
        targets = patch_targets(scene, grid=self.spec.grid, n_bins=self.n_bins)
        return {
            "images": torch.from_numpy(np.asarray(crops.images[0])),
            "kind": torch.from_numpy(targets.kind),
            "x_bin": torch.from_numpy(targets.x_bin),
            "y_bin": torch.from_numpy(targets.y_bin),
            "centre": torch.from_numpy(targets.is_centre).float(),
            "word": torch.from_numpy(targets.word),
            "letter": torch.from_numpy(targets.letter),
        }


def stack_examples(examples: Sequence[Mapping[str, torch.Tensor]]) -> Batch:
    """Equal-sized tensors side by side."""
    return {key: torch.stack([e[key] for e in examples]) for key in examples[0]}


class PatchNamingTask:
    """Trains `model.vision_backbone.image_vit`; exports a checkpoint that holds only that.

    Args:
        config: the recipe; its only source is of kind `scenes`.
        model: the model whose ViT is trained.
        base_dir: folder that relative paths of the data start from.
    """

    tally_names = (*(f"loss_{name}" for name in HEADS), *SHARES)
    sequence_length = None

    def __init__(self, config: TrainConfig, model: ModelBase, base_dir: str | Path | None = None) -> None:
        self.model = model
        scenes = _only_scenes(config)
        n_bins = round(100.0 / scenes.point_step_percent)
        sizes = {"kind": 1 + len(concepts()), "x_bin": n_bins, "y_bin": n_bins, "centre": 1}
        sizes |= {"word": 1 + len(WORDS), "letter": 1 + len(LETTERS)}
        self._heads = PatchHeads(model, sizes)
        self.module: nn.Module = self._heads
        self.stream = open_mixture(config.data, config.seed, base_dir)
        evaluated = config.evaluation.sources if config.evaluation else []
        for name in config.evaluation.tasks if config.evaluation else []:
            self.answer(name, 0)
        self.evaluation_sources: list[Source] = [open_source(source, base_dir) for source in evaluated]
        self.prepare: Prepare = PreparePatches(model.config, n_bins)
        self.evaluation_prepare: Prepare = self.prepare
        self.collate: Collate = stack_examples

    @property
    def n_vit_blocks(self) -> int:
        """Blocks up to the one whose features are named."""
        return self._heads.layer + 1

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Heads learn at the connector's rate."""
        named = dict(self._heads.named_parameters())
        return {
            "vit": {n: p for n, p in named.items() if n.startswith("image_vit.")},
            "connector": {n: p for n, p in named.items() if not n.startswith("image_vit.")},
        }

    def end_step(self, add_up: AddUp) -> None:
        """Nothing follows a step."""

    def begin_step(self, step: int, max_steps: int) -> None:
        """Nothing changes from step to step."""

    def weight(self, batch: Batch) -> float:
        """Pictures."""
        return float(len(batch["images"]))

    def n_tokens(self, batch: Batch) -> int:
        """Patches."""
        return batch["kind"].numel()

    def flops(self, batch: Batch) -> float:
        """Of the ViT alone."""
        assert self.model.config.vision_backbone is not None, "patch naming needs a vision backbone"
        return 3.0 * len(batch["images"]) * vit_flops(self.model.config.vision_backbone)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Sum of the cross-entropies (coordinates at half weight) and of the centre's binary one."""
        logits = self.module(batch["images"])
        losses = {
            name: F.cross_entropy(logits[name].flatten(0, 1), batch[name].flatten(), ignore_index=IGNORE)
            for name in ("kind", "x_bin", "y_bin")
        }
        weights = torch.ones(logits["word"].shape[-1], device=logits["word"].device)
        weights[0] = NO_SIGN_WEIGHT
        losses["word"] = F.cross_entropy(
            logits["word"].flatten(0, 1), batch["word"].flatten(), weights, ignore_index=IGNORE
        )
        centre = logits["centre"].squeeze(-1)  # [M, P]
        losses["centre"] = F.binary_cross_entropy_with_logits(
            centre, batch["centre"], pos_weight=centre.new_tensor(CENTRE_WEIGHT)
        )
        # A batch may hold no sign at all, whose mean over no letters would be no number.
        n_letters = (batch["letter"] != IGNORE).sum().clamp(min=1)
        losses["letter"] = (
            F.cross_entropy(
                logits["letter"].flatten(0, 1), batch["letter"].flatten(), ignore_index=IGNORE, reduction="sum"
            )
            / n_letters
        )
        total = 0.5 * (losses["x_bin"] + losses["y_bin"]) + sum(losses[k] for k in ("kind", "centre", "word", "letter"))
        n = float(len(batch["images"]))
        tally: Tally = {f"loss_{k}": (v.detach() * n, n) for k, v in losses.items()}
        return total, {**tally, **_shares_right(logits, batch)}

    def answer(self, name: str, limit: int) -> dict[str, float]:
        """A ViT alone answers nothing."""
        raise OLMoConfigurationError("patch naming trains a ViT, which answers nothing", "evaluation.tasks")

    def write_configuration(self, folder: Path) -> None:
        """Nothing: a ViT with heads is no model of the family."""

    def export(self, folder: Path) -> None:
        """The ViT alone, under the names it has in the whole model; load with strict=False."""
        holder = nn.Module()
        holder.vision_backbone = nn.Module()
        holder.vision_backbone.image_vit = self._heads.image_vit
        save_checkpoint(holder, folder, sharded=False)


@torch.no_grad()
def _shares_right(logits: dict[str, torch.Tensor], batch: Batch) -> Tally:
    """Shares of object patches named and placed (within a bin), of sign patches read and of letters spelt."""
    things, signs, letters = batch["kind"] > 0, batch["word"] > 0, batch["letter"] > 0
    named = logits["kind"].argmax(-1) == batch["kind"]
    placed = (logits["x_bin"].argmax(-1) - batch["x_bin"]).abs() <= 1
    read = logits["word"].argmax(-1) == batch["word"]
    spelt = logits["letter"].argmax(-1) == batch["letter"]
    shares = dict(zip(SHARES, (named[things], placed[things], read[signs], spelt[letters]), strict=True))
    return {k: (v.sum(), float(len(v))) for k, v in shares.items()}


def _only_scenes(config: TrainConfig) -> ScenesConfig:
    """How the scenes of the recipe are drawn.

    Raises:
        OLMoConfigurationError: there is other data, whose patches nobody knows.
    """
    sources = [source for group in config.data.resolved_groups() for source in group.sources]
    if len(sources) != 1 or sources[0].kind is not SourceKind.scenes:
        raise OLMoConfigurationError("patch naming learns from one source of kind scenes", "data")
    return sources[0].scenes or ScenesConfig()

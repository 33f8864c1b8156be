"""What a prompt with a picture costs before it is run: tokens, operations of one forward pass, bytes of the cache.

Operations are counted as in `olmo.models.flops`; the scorer is one part more. Where the choice itself decides (which
lines keep their column token, which crops are encoded), the most that it can come to is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.models.flops import PARTS, Flops, forward_flops, llm_flops, vit_flops
from olmo.models.he_molmo.he_molmo_config import Encode, Granularity, HeMolmoConfig, ScorerType
from olmo.models.he_molmo.token_scorer import TokenScorer
from olmo.models.he_molmo.token_selector import kept_counts, n_kept
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.image_tokens import image_token_layout
from olmo.preprocessing.multicrop import tiling_of
from olmo.preprocessing.preprocessor_config import CropMode
from olmo.preprocessing.video.video_spec import pooled_side


@dataclass(frozen=True)
class PromptCost:
    """Cost of one picture with its question."""

    n_crops: int
    """Crops that go through the picture encoder."""

    n_picture_tokens: int
    """Picture tokens that reach the language model, markers left out."""

    n_tokens: int
    """Tokens of the prompt that reach the language model."""

    flops: Flops
    """Operations of the forward pass over the prompt, logits for its last token; without the scorer."""

    scorer: float
    """Operations of the scorer, and of what is run once more for it."""

    kv_bytes: int
    """Keys and values of the prompt."""

    @property
    def total(self) -> float:
        """Operations of all parts and the scorer together."""
        return self.flops.total + self.scorer


def prompt_cost(
    config: MolmoConfig, width: int, height: int, *, n_text_tokens: int, bytes_per_number: int = 2
) -> PromptCost:
    """Cost of a picture of `width` x `height` pixels with its question.

    Args:
        config: the model; all but a HeMolmo keep every token.
        width: of the picture, in pixels.
        height: likewise.
        n_text_tokens: tokens of the prompt that belong to no picture. The question is taken to be all of them.
        bytes_per_number: of the cache; 2 is bf16.

    Raises:
        OLMoInputError: the model takes no pictures.
    """
    vision, image = config.vision_backbone, config.image_spec
    if vision is None or image is None:
        raise OLMoInputError("this model has no vision backbone (vision_backbone is null); it takes text only")
    tiling = tiling_of(height, width, image, config.mm_preprocessor)
    layout, index = image_token_layout(tiling, image, config.mm_preprocessor, config.image_token_ids)
    sizes = torch.from_numpy((index >= 0).sum(axis=1))  # [N] tokens of each crop, the global one first
    n_columns = int((layout == config.image_token_ids.col).sum())
    n_ends = len(layout) - int(sizes.sum()) - n_columns
    encoded, scorer, n_shown = sizes, 0.0, int(sizes.sum())
    if isinstance(config, HeMolmoConfig):
        encoded = _encoded(sizes, config)
        scorer = scorer_flops(config, int(encoded.sum()), len(encoded), n_text_tokens)
        if config.encode is Encode.selected_crops and len(sizes) > 1:  # the global crop was scored before
            scorer += scorer_flops(config, int(sizes[0]), 1, n_text_tokens)
        n_shown = _n_shown(sizes, encoded, config)
    n_tokens = n_shown + n_ends + min(n_columns, n_shown) + n_text_tokens
    return PromptCost(
        n_crops=len(encoded),
        n_picture_tokens=n_shown,
        n_tokens=n_tokens,
        flops=forward_flops(config, n_tokens=n_tokens, n_pairs=n_tokens**2, n_crops=len(encoded), n_logits=1),
        scorer=scorer,
        kv_bytes=kv_bytes(config.llm, n_tokens, bytes_per_number),
    )


def flops_by_part(
    config: MolmoConfig, width: int, height: int, *, n_text_tokens: int
) -> dict[str, tuple[float, float]]:
    """What selection does to the operations of a prompt: `(with it, without it)` by part and in `total`.

    Args:
        config: a HeMolmo with its ratio. Without it every token stays and none is scored.
        width: of the picture, in pixels.
        height: likewise.
        n_text_tokens: as in `prompt_cost`.

    Raises:
        OLMoInputError: the model takes no pictures.
    """
    chosen = prompt_cost(config, width, height, n_text_tokens=n_text_tokens)
    every = {"selection_ratio": 1.0, "encode": Encode.all_crops} if isinstance(config, HeMolmoConfig) else {}
    whole = prompt_cost(config.replace(**every), width, height, n_text_tokens=n_text_tokens).flops
    parts = {part: (float(getattr(chosen.flops, part)), float(getattr(whole, part))) for part in PARTS}
    return {**parts, "scorer": (chosen.scorer, 0.0), "total": (chosen.total, whole.total)}


def scorer_flops(config: HeMolmoConfig, n_tokens: int, n_crops: int, n_question: int) -> float:
    """Operations of scoring the tokens of a row once.

    Args:
        config: the model.
        n_tokens: picture tokens that are scored.
        n_crops: crops they belong to.
        n_question: tokens of the question.
    """
    vision, scorer = config.vision_backbone, config.token_scorer
    assert vision is not None, "there is a picture"
    if scorer.scorer is ScorerType.vit_attention:
        return n_crops * _attention_flops(vision)
    if scorer.scorer not in (ScorerType.cross, ScorerType.lowres_llm):
        return 0.0
    with torch.device("meta"):
        network = TokenScorer(scorer, config.llm.d_model)
    matrices = {name: weight.numel() for name, weight in network.named_parameters() if weight.ndim == 2}
    of_question = matrices.pop("query.weight")
    total = float(2 * (n_tokens * (sum(matrices.values()) + scorer.query_size) + of_question))
    if scorer.scorer is ScorerType.lowres_llm:
        length = _n_coarse(config, vision) + n_question
        n_layers = max(1, math.ceil(config.llm.n_layers * scorer.low_res_layers))
        total += llm_flops(config.llm.replace(n_layers=n_layers), length, length**2)
    return total


def kv_bytes(config: LlmConfig, n_tokens: int, bytes_per_number: int = 2) -> int:
    """Bytes of the keys and values of so many tokens."""
    return 2 * config.n_layers * config.resolved_n_kv_heads * config.resolved_head_dim * n_tokens * bytes_per_number


def _encoded(sizes: Tensor, config: HeMolmoConfig) -> Tensor:
    """Tokens of each crop that is encoded; of the others the largest are taken, which is the most there can be."""
    if config.encode is Encode.all_crops or len(sizes) == 1:
        return sizes
    share = config.crop_ratio or config.selection_ratio
    return torch.cat([sizes[:1], sizes[1:].sort(descending=True).values[: n_kept(len(sizes) - 1, share)]])


def _n_shown(sizes: Tensor, encoded: Tensor, config: HeMolmoConfig) -> int:
    """Picture tokens that are kept."""
    ratio, scorer = config.selection_ratio, config.token_scorer
    if scorer.granularity is Granularity.per_crop:
        return int(kept_counts(encoded, ratio, scorer.min_per_crop).sum())
    return min(n_kept(int(sizes.sum()), ratio, scorer.min_keep), int(encoded.sum()))


def _attention_flops(vision: MolmoVisionBackboneConfig) -> float:
    """The encoder once more on a crop, and queries, keys and their products in its last block that is read."""
    spec = vision.vit.spec
    n_tokens, width = spec.n_patches + int(spec.has_class_token), spec.d_model
    return vit_flops(vision) + float(2 * n_tokens * 3 * width * width + 2 * n_tokens * n_tokens * width)


def _n_coarse(config: HeMolmoConfig, vision: MolmoVisionBackboneConfig) -> int:
    """Tokens of the coarse picture that `lowres_llm` reads."""
    rows, columns = vision.tokens_per_side
    if config.mm_preprocessor.crop_mode is CropMode.resize:
        return pooled_side(rows, 2) * pooled_side(columns, 2)
    return rows * columns

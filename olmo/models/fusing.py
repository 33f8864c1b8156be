"""Picture features into the sequence: added to the embeddings of their tokens, in the one object that goes on."""

from __future__ import annotations

import torch

from olmo.models.llm_inputs import LlmInputs
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.picture_inputs import PictureInputs, Seen
from olmo.nn.llm import Llm
from olmo.preprocessing.image_tokens import ImageTokenIds


def fused_inputs(llm: Llm, config: MolmoConfig, seen: Seen) -> LlmInputs:
    """The input of the language model, from tokens and features of pictures.

    Args:
        llm: embeds the tokens.
        config: the model; its attention mode and picture tokens are read.
        seen: the batch after encoding.
    """
    text = seen.text
    embeds = llm.embed(text.input_ids)
    if seen.pictures is not None and seen.features is not None:
        embeds = fuse(embeds, seen.features, seen.pictures)
    groups = None
    if config.bi_directional_attn is not None and config.vision_backbone is not None:
        groups = image_groups(text.input_ids, config.image_token_ids)
    return LlmInputs(
        embeds=embeds,
        position_ids=text.position_ids,
        attention_mask=text.attention_mask,
        segment_ids=text.segment_ids,
        labels=text.labels,
        loss_weights=text.loss_weights,
        image_groups=groups,
        aux=seen.aux,
    )


def fuse(embeds: torch.Tensor, features: torch.Tensor, pictures: PictureInputs) -> torch.Tensor:
    """Add picture features to the embeddings of their tokens.

    Args:
        embeds: `[B, L, D]` token embeddings.
        features: `[M, tokens, D]` of the crops in `pictures`.
        pictures: where each feature belongs.

    Returns:
        `[B, L, D]`; features at negative positions are dropped.
    """
    used = pictures.token_index >= 0
    rows = pictures.rows[:, None].expand_as(used)[used]
    return embeds.index_put((rows, pictures.token_index[used]), features[used].to(embeds.dtype), accumulate=True)


def image_groups(input_ids: torch.Tensor, token_ids: ImageTokenIds) -> torch.Tensor:
    """`[B, L]` int64: 0 on text, k on the tokens of the k-th run between a start token and its end token.

    A picture cut into crops is two runs: the global crop, and the others merged. Source: the original Molmo code, whose
    `within_image` counts start tokens.
    """
    is_start = input_ids == token_ids.start
    is_picture = is_start | (input_ids == token_ids.end) | (input_ids == token_ids.patch) | (input_ids == token_ids.col)
    return is_start.long().cumsum(dim=1) * is_picture

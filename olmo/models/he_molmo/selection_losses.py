"""What teaches a token scorer besides the answers: a budget for the gates, and a teacher that sees every token.

The teacher is the model itself with all of its tokens. It also has an opinion on those that were left out, which the
loss of the answers has not.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo_config import Teacher, TokenScorerConfig
from olmo.models.he_molmo.picture_tokens import PictureTokens, picture_tokens
from olmo.models.he_molmo.token_selector import SelectionOutput
from olmo.models.llm_inputs import visible_keys
from olmo.models.logits import logits_and_loss
from olmo.models.picture_inputs import Seen
from olmo.preprocessing.image_tokens import ImageTokenIds

_SMALLEST = 1e-9


def selection_losses(
    model: ModelBase,
    seen: Seen,
    tokens: PictureTokens,
    selection: SelectionOutput,
    ratio: float,
    config: TokenScorerConfig,
) -> dict[str, Tensor]:
    """The losses that the configuration weighs above 0, weighted: `loss_budget` and `loss_distillation`.

    Args:
        model: the model; it reads `seen` with all of its tokens to be the teacher.
        seen: the batch with all of its tokens, and its labels.
        tokens: its picture tokens.
        selection: what was made of them.
        ratio: share of the tokens that was to be kept.
        config: the weights, and the kind of teacher.

    Returns:
        The losses, and `selection_gate`, the mean gate. Nothing where no score is learned.
    """
    if not selection.gates.requires_grad:
        return {}
    gate = (selection.gates * tokens.is_valid).sum() / tokens.is_valid.sum()
    losses = {"selection_gate": gate.detach()}
    if config.budget_weight > 0.0:
        losses["loss_budget"] = config.budget_weight * (gate - ratio).abs()
    if config.distillation_weight > 0.0:
        if config.teacher is Teacher.attention:
            taught = attention_teacher(model, seen, tokens, config.teacher_layer)
        else:
            taught = gradient_teacher(model, seen, tokens)
        losses["loss_distillation"] = config.distillation_weight * distance(taught, selection.scores, tokens.is_valid)
    return losses


def distance(taught: Tensor, scores: Tensor, is_valid: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(scores) from the shares `taught`, mean over rows with tokens.

    Args:
        taught: `[B, N]`, 0 or more; a row's sum does not matter.
        scores: `[B, N]`, minus infinity where there is no token.
        is_valid: bool `[B, N]`.
    """
    taught = taught.float() * is_valid
    total = taught.sum(dim=1, keepdim=True)
    shares = taught / total.clamp(min=_SMALLEST)
    log_scores = F.log_softmax(scores.masked_fill(~is_valid, -1e4), dim=1)
    each = (shares * (shares.clamp(min=_SMALLEST).log() - log_scores)).sum(dim=1)  # [B]
    is_taught = total[:, 0] > 0
    return (each * is_taught).sum() / is_taught.sum().clamp(min=1)


@torch.no_grad()
def attention_teacher(model: ModelBase, seen: Seen, tokens: PictureTokens, layer: float) -> Tensor:
    """`[B, N]`: attention of all text behind the pictures to each of their tokens, the mean over heads of one layer."""
    inputs = model.transform(model.fused(seen))
    n_layers = max(1, math.ceil(layer * model.config.llm.n_layers))
    out = model.llm(
        inputs.embeds,
        position_ids=inputs.position_ids,
        attention_mask=visible_keys(inputs, model.config.bi_directional_attn),
        n_layers=n_layers,
        output_attentions=True,
    )
    assert out.attentions is not None, "they were asked for"
    is_text = text_behind_pictures(seen, model.config.image_token_ids)
    attended = (out.attentions[-1].float().mean(dim=1) * is_text[..., None]).sum(dim=1)  # [B, L]
    return attended.gather(1, tokens.positions) * tokens.is_valid


def gradient_teacher(model: ModelBase, seen: Seen, tokens: PictureTokens) -> Tensor:
    """`[B, N]`: feature times gradient of the answers' loss, summed over the width, in absolute value."""
    assert seen.features is not None and seen.pictures is not None, "there are pictures"
    with torch.enable_grad():
        features = seen.features.detach().requires_grad_()
        inputs = model.transform(model.fused(replace(seen, features=features)))
        _, loss = logits_and_loss(model.llm, model.run_llm(inputs).hidden, inputs, "labels")
        assert loss is not None, "selection_losses is for batches with labels"
        (gradient,) = torch.autograd.grad(loss, features)
    matters = (gradient.float() * seen.features.float()).sum(dim=-1, keepdim=True).abs()  # [M, entries, 1]
    return picture_tokens(seen.pictures, matters, len(tokens.is_valid)).features[..., 0].detach()


def text_behind_pictures(seen: Seen, ids: ImageTokenIds) -> Tensor:
    """`[B, L]` bool: real tokens after the last picture token of their row."""
    text = seen.text
    places = torch.arange(text.input_ids.shape[1], device=text.input_ids.device)
    last = torch.where(text.input_ids == ids.end, places, -1).amax(dim=1, keepdim=True)
    is_text = (places > last) & (text.input_ids >= 0)
    return is_text if text.attention_mask is None else is_text & text.attention_mask

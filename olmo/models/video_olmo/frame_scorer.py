"""How well frames fit a question: a small network over features that are there already.

Source: relevance as a cosine in a shared space, after CLIP (Radford et al. 2021); the straight-through gate is that of
Bengio, Leonard and Courville 2013.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.image_vit import init_linear
from olmo.nn.linear import linear
from olmo.preprocessing.video.adaptive import spread

SPACE_WIDTH = 64
"""Width of the space in which questions and frames are compared."""

GATE_TEMPERATURE = 0.1
"""Scores are divided by it before the sigmoid of the gate."""


class FrameScorer(nn.Module):
    """Cosine between a question and a frame, each by its mean and a map of its own, plus a bias.

    Nothing flows back into what it reads: it learns from the gates alone.

    Args:
        d_model: width D.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.question = linear(d_model, SPACE_WIDTH)
        self.frame = linear(d_model, SPACE_WIDTH)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, questions: Tensor, frames: Tensor) -> Tensor:
        """Scores `[M]`, float32, of mean frame features `[M, D]` for mean token embeddings `[M, D]`."""
        asked, shown = self.question(questions.detach()).float(), self.frame(frames.detach()).float()
        return F.cosine_similarity(asked, shown, dim=-1) + self.bias.float()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the maps; the bias is zero."""
        init_linear(self.question, generator)
        init_linear(self.frame, generator)
        nn.init.zeros_(self.bias)


def question_means(embeds: Tensor, is_question: Tensor) -> tuple[Tensor, Tensor]:
    """Mean embedding of each row's question.

    Args:
        embeds: `[B, L, D]`.
        is_question: bool `[B, L]`.

    Returns:
        `[B, D]`, and bool `[B]`: whether there is a question.
    """
    counts = is_question.sum(dim=1)
    sums = (embeds * is_question[..., None].to(embeds.dtype)).sum(dim=1)
    return sums / counts.clamp(min=1)[:, None].to(embeds.dtype), counts > 0


def chosen_frames(scores: Tensor, k: int, is_asked: bool) -> list[int]:
    """Numbers of the k best of `scores` `[n]`, in order of time; evenly spread ones where nothing is asked.

    Of frames with equal scores the earlier ones are taken.
    """
    n = len(scores)
    if not is_asked or k >= n:
        return spread(n, min(k, n)).tolist()
    return sorted(scores.argsort(descending=True, stable=True)[:k].tolist())


def gates(scores: Tensor) -> Tensor:
    """Factors that are 1 in value, with the gradient of `sigmoid(scores / temperature)`; same shape."""
    soft = torch.sigmoid(scores / GATE_TEMPERATURE)
    return 1 + (soft - soft.detach())

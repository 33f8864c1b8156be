"""What a state inside a model has to answer, by the words that answers have for it or by linear heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.tokenizer import Tokenizer
from olmo.train.tasks.inside.facets import UNKNOWN, Facet


class FacetHeads(nn.Module):
    """By the model's own output head where answers have a word for a class, else by linear ones.

    Args:
        facets: what is asked.
        width: size of a state.
        tokenizer: the model's.

    Raises:
        OLMoConfigurationError: the tokenizer cannot tell the words of a facet apart by their first tokens.
    """

    def __init__(self, facets: Sequence[Facet], width: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.words = {facet.name: _first_tokens(tokenizer, facet.words) for facet in facets if facet.words}
        self.linear = nn.ModuleDict(
            {
                facet.name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, facet.n_classes))
                for facet in facets
                if not facet.words and not facet.is_name
            }
        )

    def forward(self, model: ModelBase, facet: Facet, states: torch.Tensor) -> torch.Tensor:
        """`[n, classes]` of a facet for states `[n, D]`; the classes of a name are all tokens."""
        llm = model.llm
        if facet.is_name:
            return llm.logits(llm.ln_f(states)).float()
        if facet.words:
            return F.linear(llm.ln_f(states), llm.wte.embedding[self.words[facet.name].to(states.device)]).float()
        return self.linear[facet.name](states).float()


def summed_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, summed over what is known."""
    return F.cross_entropy(logits, wanted, ignore_index=UNKNOWN, reduction="sum")


def _first_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> torch.Tensor:
    """First token of each word, int64 `[words]`."""
    tokens = [tokenizer.encode(f" {word}")[0] for word in words]
    if len(set(tokens)) < len(tokens):
        raise OLMoConfigurationError(
            f"needs a tokenizer that begins each of the words {', '.join(words)} with another token, such as that of "
            "configs/molmo-nano-wide; or leave event_weight out",
            "event_weight",
        )
    return torch.tensor(tokens)

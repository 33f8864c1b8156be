"""A model with heads inside, which ask its picture tokens what becomes of the things that they show.

Half way up they have to know where their thing is at the beginning of the clip and at its end; from that follows what
it does, which is asked higher up. A small language model does not find these two steps from answers alone in the time
that a CPU has. What answers say in a word is asked for in that word, by the model's own output head, so that an answer
only has to copy it; the other heads are linear maps, thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.outputs import OLMoOutput
from olmo.models.picture_inputs import PictureInputs
from olmo.tokenizer import Tokenizer
from olmo.train.task import Tally
from olmo.train.tasks.event_targets import FACETS, UNKNOWN

EVENT_TALLIES = ("loss_places", "loss_events", "share_placed", "share_actions")

Encoded = tuple[PictureInputs, torch.Tensor]
"""Crops, and what `model.encode_images` made of them."""


class EventModel(nn.Module):
    """A model and its heads.

    Args:
        model: the model.
        layer: blocks of the language model below the heads for what happens; those for places come after half as many.

    Raises:
        OLMoConfigurationError: the tokenizer cannot tell the words of actions apart by their first tokens.
    """

    def __init__(self, model: ModelBase, layer: int) -> None:
        super().__init__()
        self.model = model
        width = model.config.llm.d_model
        self.layers = [max(1, layer // 2) if facet.is_place else layer for facet in FACETS]
        self.words = [_first_tokens(model.tokenizer, facet.words) for facet in FACETS]
        self.heads = nn.ModuleDict(
            {f.name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, f.n_classes)) for f in FACETS if not f.words}
        )

    def forward(self, *, events: torch.Tensor | None = None, **batch: Any) -> OLMoOutput:
        """The model's forward; with `events` `[M, tokens, facets]` its `aux` also has the losses and shares of them."""
        if events is None:
            return self.model(**batch)
        with encoded(self.model) as seen:
            out: OLMoOutput = self.model(**batch, output_hidden_states=True)
        assert out.hidden_states is not None, "they were asked for"
        aux = {**(out.aux or {}), **self._asked(out.hidden_states, seen[0][0], events)}
        return out._replace(aux=aux, hidden_states=None)

    def _asked(self, states: torch.Tensor, pictures: PictureInputs, events: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sums over tokens, and their number, by name."""
        is_shown = (events != UNKNOWN).any(dim=-1)
        index = pictures.token_index[:, : events.shape[1]]
        rows, columns = pictures.rows[:, None].expand_as(index)[is_shown], index[is_shown]
        wanted, n = events[is_shown], is_shown.sum().clamp(min=1)
        found = {name: states.new_zeros((), dtype=torch.float32) for name in EVENT_TALLIES}
        for number, facet in enumerate(FACETS):
            logits = self._logits(number, states[self.layers[number]][rows, columns])
            loss = F.cross_entropy(logits, wanted[:, number], ignore_index=UNKNOWN, reduction="sum") / n
            right = (logits.argmax(dim=-1) == wanted[:, number]).sum() / n
            if facet.is_place:  # four questions that are one
                found["loss_places"] = found["loss_places"] + loss / 4
                found["share_placed"] = found["share_placed"] + right.detach() / 4
            else:
                found["loss_events"] = found["loss_events"] + loss
            if facet.name == "action":
                found["share_actions"] = right.detach()
        return {**found, "n_shown": n.float()}

    def _logits(self, number: int, tokens: torch.Tensor) -> torch.Tensor:
        """`[n, classes]` of a facet for states `[n, D]`."""
        llm, facet = self.model.llm, FACETS[number]
        if not facet.words:
            return self.heads[facet.name](tokens).float()
        return F.linear(llm.ln_f(tokens), llm.wte.embedding[self.words[number].to(tokens.device)]).float()


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


def event_tally(aux: dict[str, torch.Tensor]) -> Tally:
    """What a run logs of them."""
    return {name: (aux[name].detach() * aux["n_shown"], aux["n_shown"]) for name in EVENT_TALLIES}


def event_loss(aux: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean loss over the tokens that show a thing."""
    return aux["loss_places"] + aux["loss_events"]


@contextmanager
def encoded(model: ModelBase) -> Iterator[Sequence[Encoded]]:
    """Collects what `model.encode_images` is given and returns while the context is open; contexts may be nested."""
    seen: list[Encoded] = []
    outer = model.encode_images

    def recording(pictures: PictureInputs) -> torch.Tensor:
        seen.append((pictures, outer(pictures)))
        return seen[-1][1]

    model.encode_images = recording  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        model.encode_images = outer  # type: ignore[method-assign]

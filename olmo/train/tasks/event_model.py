"""A model with heads inside, which ask its picture tokens what becomes of the things that they show.

Half way up they have to know where their thing is at the beginning of the clip and at its end; from that follows what
it does, which is asked higher up. One block further up the words of a question that name a thing or an action have to
know the same of what they name (`mention_targets`). A small language model does not find these three steps from answers
alone in the time that a CPU has. What answers say in a word is asked for in that word, by the model's own output head,
so that an answer only has to copy it; the other heads are linear maps, thrown away afterwards.
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
from olmo.train.tasks.event_targets import ACTION, FACETS, UNKNOWN, Facet
from olmo.train.tasks.mention_targets import MENTIONED

EVENT_TALLIES = ("loss_places", "loss_events", "share_placed", "share_actions")
MENTION_TALLIES = ("loss_mentions", "share_found")

Encoded = tuple[PictureInputs, torch.Tensor]
"""Crops, and what `model.encode_images` made of them."""


class EventModel(nn.Module):
    """A model and its heads.

    Args:
        model: the model.
        layer: blocks of the language model below the heads for what happens; those for places come after half as many,
            those for what a question names after one more.
        has_mentions: whether questions are asked too.

    Raises:
        OLMoConfigurationError: the tokenizer cannot tell the words of actions apart by their first tokens.
    """

    def __init__(self, model: ModelBase, layer: int, has_mentions: bool = False) -> None:
        super().__init__()
        self.model = model
        self.layers = [max(1, layer // 2) if facet.is_place else layer for facet in FACETS]
        self.mention_layer = layer + 1
        self.heads = FacetHeads(FACETS, model.config.llm.d_model, model.tokenizer)
        self.mention_heads: FacetHeads | None = None
        if has_mentions:
            self.mention_heads = FacetHeads(MENTIONED, model.config.llm.d_model, model.tokenizer)

    def forward(
        self, *, events: torch.Tensor | None = None, mentions: torch.Tensor | None = None, **batch: Any
    ) -> OLMoOutput:
        """The model's forward, whose `aux` has the losses and shares of what is asked inside as well.

        Args:
            events: `[M, tokens, facets]` classes of picture tokens; None asks nothing.
            mentions: `[B, L, facets]` classes of tokens of questions, where the model was built with `has_mentions`.
            batch: what the model is given.
        """
        if events is None:
            return self.model(**batch)
        with encoded(self.model) as seen:
            out: OLMoOutput = self.model(**batch, output_hidden_states=True)
        assert out.hidden_states is not None, "they were asked for"
        aux = {**(out.aux or {}), **self._asked(out.hidden_states, seen[0][0], events)}
        if mentions is not None and self.mention_heads is not None:
            aux |= self._asked_of_questions(self.mention_heads, out.hidden_states[self.mention_layer], mentions)
        return out._replace(aux=aux, hidden_states=None)

    def _asked(self, states: torch.Tensor, pictures: PictureInputs, events: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sums over tokens, and their number, by name."""
        is_shown = (events != UNKNOWN).any(dim=-1)
        index = pictures.token_index[:, : events.shape[1]]
        rows, columns = pictures.rows[:, None].expand_as(index)[is_shown], index[is_shown]
        wanted, n = events[is_shown], is_shown.sum().clamp(min=1)
        found = {name: states.new_zeros((), dtype=torch.float32) for name in EVENT_TALLIES}
        for number, facet in enumerate(FACETS):
            logits = self.heads(self.model, facet, states[self.layers[number]][rows, columns])
            loss = _summed_loss(logits, wanted[:, number]) / n
            right = (logits.argmax(dim=-1) == wanted[:, number]).sum() / n
            if facet.is_place:  # four questions that are one
                found["loss_places"] = found["loss_places"] + loss / 4
                found["share_placed"] = found["share_placed"] + right.detach() / 4
            else:
                found["loss_events"] = found["loss_events"] + loss
            if facet is ACTION:
                found["share_actions"] = right.detach()
        return {**found, "n_shown": n.float()}

    def _asked_of_questions(
        self, heads: FacetHeads, states: torch.Tensor, mentions: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The same of the tokens of questions that name something, for states `[B, L, D]`."""
        is_asked = (mentions != UNKNOWN).any(dim=-1)
        tokens, wanted = states[is_asked], mentions[is_asked]
        loss, n_right = states.new_zeros((), dtype=torch.float32), is_asked.new_zeros((), dtype=torch.long)
        for number, facet in enumerate(MENTIONED):
            logits = heads(self.model, facet, tokens)
            loss = loss + _summed_loss(logits, wanted[:, number])
            n_right = n_right + (logits.argmax(dim=-1) == wanted[:, number]).sum()
        n, n_wanted = is_asked.sum().clamp(min=1), (wanted != UNKNOWN).sum().clamp(min=1)
        return {
            "loss_mentions": loss / n,
            "share_found": n_right / n_wanted,
            "n_mentions": n.float(),
            "n_wanted": n_wanted.float(),
        }


class FacetHeads(nn.Module):
    """What a state has to answer: by the model's own output head where answers have a word for it, else by linear ones.

    Args:
        facets: what is asked.
        width: size of a state.
        tokenizer: the model's.

    Raises:
        OLMoConfigurationError: as for `EventModel`.
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


def _summed_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
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


def event_tally(aux: dict[str, torch.Tensor]) -> Tally:
    """What a run logs of them."""
    tally: dict[str, tuple[torch.Tensor | float, torch.Tensor | float]] = {
        name: (aux[name].detach() * aux["n_shown"], aux["n_shown"]) for name in EVENT_TALLIES
    }
    for name, n in zip(MENTION_TALLIES, ("n_mentions", "n_wanted"), strict=True):
        if name in aux:
            tally[name] = (aux[name].detach() * aux[n], aux[n])
    return tally


def event_loss(aux: dict[str, torch.Tensor], mention_weight: float = 0.0) -> torch.Tensor:
    """Mean loss over the tokens that show a thing, and with its weight that over the mentions in questions."""
    loss = aux["loss_places"] + aux["loss_events"]
    return loss + mention_weight * aux["loss_mentions"] if mention_weight else loss


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

"""A model with heads inside, which ask its tokens what is true of what they show and name.

Of a clip, the picture tokens have to know half way up where their thing is at its beginning and at its end; from that
follows what it does, which is asked higher up. One block further up the words of a question that name something have to
know the same of that, and after one more how two of them stand to one another. The last token of a question has to know
at the height of places which thing is asked about. Of pictures, only questions are asked. A small language model does
not find these steps from answers alone in the time that a CPU has. What answers say in a word is asked for in that
word, by the model's own output head; the other heads are linear maps, thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from olmo.models.base import ModelBase
from olmo.models.outputs import OLMoOutput
from olmo.models.picture_inputs import PictureInputs
from olmo.train.task import Tally
from olmo.train.tasks.inside.facet_heads import FacetHeads, summed_loss
from olmo.train.tasks.inside.facets import ACTION, COMPARED, MENTIONED, SHOWN, SUBJECT, UNKNOWN

EVENT_TALLIES = ("loss_places", "loss_events", "share_placed", "share_actions")
MENTION_TALLIES = ("loss_mentions", "share_found")

Encoded = tuple[PictureInputs, torch.Tensor]
"""Crops, and what `model.encode_images` made of them."""


class AskedModel(nn.Module):
    """A model and its heads.

    Args:
        model: the model.
        layer: blocks of the language model below the heads for what happens; those for places come after half as many
            and so do those for what a question is about, those for what its words name after one more, and those for
            how two things stand to one another after two more.
        shows: whether picture tokens of clips are asked what becomes of what they show.
        names: whether words of questions are asked about what they name.

    Raises:
        OLMoConfigurationError: the tokenizer cannot tell the words of answers apart by their first tokens.
    """

    def __init__(self, model: ModelBase, layer: int, *, shows: bool = True, names: bool = False) -> None:
        super().__init__()
        self.model = model
        width, tokenizer, low = model.config.llm.d_model, model.tokenizer, max(1, layer // 2)
        self.layers = [low if facet.is_place else layer for facet in SHOWN]
        layer_of = {SUBJECT: low, **dict.fromkeys(COMPARED, min(layer + 2, len(model.llm.blocks)))}
        self.mention_layers = [layer_of.get(facet, layer + 1) for facet in MENTIONED]
        self.heads = FacetHeads(SHOWN, width, tokenizer) if shows else None
        self.mention_heads = FacetHeads(MENTIONED, width, tokenizer) if names else None

    def forward(
        self, *, events: torch.Tensor | None = None, mentions: torch.Tensor | None = None, **batch: Any
    ) -> OLMoOutput:
        """The model's forward, whose `aux` has the losses and shares of what is asked inside as well.

        Args:
            events: `[M, tokens, facets]` classes of picture tokens, where the model was built to be asked them.
            mentions: `[B, L, facets]` classes of tokens of questions, likewise.
            batch: what the model is given.
        """
        if events is None and mentions is None:
            return self.model(**batch)
        with encoded(self.model) as seen:
            out: OLMoOutput = self.model(**batch, output_hidden_states=True)
        assert out.hidden_states is not None, "they were asked for"
        aux = dict(out.aux or {})
        if events is not None and self.heads is not None:
            aux |= self._asked_of_frames(self.heads, out.hidden_states, seen[0][0], events)
        if mentions is not None and self.mention_heads is not None:
            aux |= self._asked_of_questions(self.mention_heads, out.hidden_states, mentions)
        return out._replace(aux=aux, hidden_states=None)

    def _asked_of_frames(
        self, heads: FacetHeads, states: torch.Tensor, pictures: PictureInputs, events: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Sums over tokens, and their number, by name, for the states `[blocks + 1, B, L, D]` after each block."""
        is_shown = (events != UNKNOWN).any(dim=-1)
        index = pictures.token_index[:, : events.shape[1]]
        rows, columns = pictures.rows[:, None].expand_as(index)[is_shown], index[is_shown]
        wanted, n = events[is_shown], is_shown.sum().clamp(min=1)
        found = {name: states.new_zeros((), dtype=torch.float32) for name in EVENT_TALLIES}
        for number, facet in enumerate(SHOWN):
            logits = heads(self.model, facet, states[self.layers[number]][rows, columns])
            loss = summed_loss(logits, wanted[:, number]) / n
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
        """The same of the tokens of questions that name something."""
        is_known = mentions != UNKNOWN
        loss, n_right = states.new_zeros((), dtype=torch.float32), mentions.new_zeros(())
        for number, facet in enumerate(MENTIONED):
            asked = is_known[..., number]
            logits, wanted = (
                heads(self.model, facet, states[self.mention_layers[number]][asked]),
                mentions[asked, number],
            )
            loss = loss + summed_loss(logits, wanted)
            n_right = n_right + (logits.argmax(dim=-1) == wanted).sum()
        n, n_wanted = is_known.any(dim=-1).sum().clamp(min=1), is_known.sum().clamp(min=1)
        return {
            "loss_mentions": loss / n,
            "share_found": n_right / n_wanted,
            "n_mentions": n.float(),
            "n_wanted": n_wanted.float(),
        }


def asked_tally(aux: dict[str, torch.Tensor]) -> Tally:
    """What a run logs of them."""
    numbers = dict.fromkeys(EVENT_TALLIES, "n_shown") | dict(
        zip(MENTION_TALLIES, ("n_mentions", "n_wanted"), strict=True)
    )
    return {name: (aux[name].detach() * aux[n], aux[n]) for name, n in numbers.items() if name in aux}


def asked_loss(aux: dict[str, torch.Tensor], event_weight: float, mention_weight: float) -> torch.Tensor:
    """Weighted mean losses over the tokens that show a thing, and over the mentions in questions."""
    weights = {"loss_places": event_weight, "loss_events": event_weight, "loss_mentions": mention_weight}
    return torch.stack([weight * aux[name] for name, weight in weights.items() if name in aux]).sum()


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

"""Choosing the next token from logits: temperature, top-k, top-p, the draw.

Pure functions over logits [B, V]. Ties go to the lower id everywhere, as argmax does, so that the same logits give the
same set of candidates on every run. Sources: top-p is nucleus sampling (Holtzman et al. 2020, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.generation.params import GenerationParams

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, one for each row (a row then draws as it would alone), or None for the global one."""

_NUCLEUS_GUESS = 1024


def sample(logits: Tensor, params: GenerationParams, generator: Generators = None) -> Tensor:
    """Choose one token per row.

    Temperature first, then top-k, then top-p over what top-k left.

    Args:
        logits: float [B, V], -inf where a token is forbidden.
        params: `do_sample`, `temperature`, `top_k` and `top_p` are read.
        generator: source of randomness, on any device.

    Returns:
        Ids, int64 [B].
    """
    if params.is_greedy:
        return logits.argmax(dim=-1)
    logits, ids = apply_temperature(logits, params.temperature), None
    if params.top_k is not None and params.top_k < logits.shape[-1]:
        logits, ids = top_k_candidates(logits, params.top_k)
    if params.top_p < 1:
        logits, places = top_p_candidates(logits, params.top_p)
        ids = places if ids is None else ids.gather(-1, places)
    chosen = draw(logits, generator)
    return chosen if ids is None else ids.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits [B, V] by a temperature above 0. Returns float32 [B, V], shifted so that the largest is 0."""
    logits = logits.float()
    # Shifted first: a tiny temperature then sends the others to -inf instead of everything to inf.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def top_k_candidates(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits per row in falling order. `torch.topk` leaves open which of several equal ones it takes.

    Args:
        logits: float [B, V], taken in float32.
        k: 1 to V.

    Returns:
        The logits, float32 [B, k], and their ids, int64 [B, k].
    """
    logits = logits.float()
    vocab_size = logits.shape[-1]
    if k == vocab_size:
        return torch.sort(logits, dim=-1, descending=True, stable=True)
    # One whole number a token, ordered as (logit, -id) is, has no ties. The bits of a float order as an int does once
    # those of the negative ones are flipped; adding 0.0 turns -0.0 into 0.0.
    bits = (logits + 0.0).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    falling = torch.arange(vocab_size - 1, -1, -1, device=logits.device)
    keys = ((bits.long() << 32) + falling).topk(k, dim=-1).values
    ids = vocab_size - 1 - (keys & 0xFFFFFFFF)
    return logits.gather(-1, ids), ids


def top_p_candidates(logits: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of likeliest tokens whose probability reaches p, at least one token a row.

    Args:
        logits: float [B, V].
        p: in (0, 1].

    Returns:
        Logits in falling order, float32 [B, n], -inf outside the row's set, and their ids, int64 [B, n].
    """
    total = logits.float().logsumexp(dim=-1, keepdim=True)
    # The set is nearly always small, and sorting a large vocabulary costs eight times what finding the best 1024 does.
    n_best = min(_NUCLEUS_GUESS, logits.shape[-1])
    ordered, ids = top_k_candidates(logits, n_best)
    reached = (ordered - total).exp().cumsum(dim=-1)
    if n_best < logits.shape[-1] and bool((reached[:, -1] < p).any()):
        ordered, ids = top_k_candidates(logits, logits.shape[-1])
        reached = (ordered - total).exp().cumsum(dim=-1)
    is_beyond = torch.zeros_like(ordered, dtype=torch.bool)
    is_beyond[:, 1:] = reached[:, :-1] >= p  # the tokens before this one suffice
    return ordered.masked_fill(is_beyond, -torch.inf), ids


def draw(logits: Tensor, generator: Generators = None) -> Tensor:
    """Draw one id per row from softmax(logits), by inverting the cumulative distribution.

    One uniform number decides a row. Unlike `torch.multinomial` this makes no host synchronisation, and a row with a
    generator of its own draws the same tokens in any batch.

    Args:
        logits: float [B, V].
        generator: see `Generators`.

    Returns:
        Ids, int64 [B].
    """
    reached = logits.to(wide_dtype(logits.device)).softmax(dim=-1).cumsum(dim=-1)
    total = reached[:, -1:].contiguous()
    target = _uniform(logits.shape[0], generator, reached) * total
    # The product may round up to the total, which would point past the last possible token.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    # `right`: the first id that goes beyond the target, so that an id of probability 0 is never met.
    ids = torch.searchsorted(reached, target, right=True).squeeze(-1)
    return ids.clamp_max(logits.shape[-1] - 1)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest float a device has: sums over a vocabulary and over a sequence are taken in it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _uniform(n_rows: int, generator: Generators, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), [B, 1], drawn where the generator lives: a CPU seed means the same on every device."""
    if generator is None or isinstance(generator, torch.Generator):
        device = like.device if generator is None else generator.device
        return torch.rand(n_rows, 1, generator=generator, dtype=wide_dtype(device), device=device).to(like)
    if len(generator) != n_rows:
        raise OLMoInputError(f"{len(generator)} generators for {n_rows} rows: give one for all, or one for each row.")
    return torch.cat([_uniform(1, g, like) for g in generator])

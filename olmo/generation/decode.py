"""The decoding loop: greedy or sampled, a batch at a time, each row to its own end.

Knows a step, not a model; text only through the `is_stopped` callback. The plain greedy loop costs one argmax, a few
tiny [B] operations and one host synchronisation a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.generation.beam_search import beam_search
from olmo.generation.logits_processors import LogitsPipeline
from olmo.generation.params import GenerationParams
from olmo.generation.sampling import Generators, sample
from olmo.generation.step import DecodeStep, GeneratedTokens, LogitsProcessor, StopCheck, check_start


@dataclass(frozen=True)
class DecodedStep:
    """One token of every row.

    Attributes:
        token_ids: int64 [B]; the pad id in rows that ended before.
        log_probs: float32 [B], log-probability of the token under the model's own distribution: the log-softmax of its
            raw logits, before penalty, hooks, temperature, top-k and top-p. 0 in rows that ended before. None unless
            `output_scores` is set.
        is_finished: bool [B], whether the row has ended, with this token or before.
    """

    token_ids: Tensor
    log_probs: Tensor | None
    is_finished: Tensor


def decode_tokens(
    step: DecodeStep,
    first_logits: Tensor,
    params: GenerationParams,
    *,
    prompt_ids: Tensor | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
    generator: Generators = None,
    is_stopped: StopCheck | None = None,
) -> Iterator[DecodedStep]:
    """Give tokens as they are chosen, until every row has ended or `max_new_tokens` is reached.

    Arguments are checked at once. The step is called for a token only when the next one is asked for.

    Args:
        step: the model after its prompt.
        first_logits: float [B, V], logits of the first new token.
        params: the settings; `num_beams` must be 1.
        prompt_ids: int64 [B, L], for the repetition penalty; negative ids are passed over.
        logits_processors: the user's hooks.
        generator: source of randomness.
        is_stopped: further reason to end a row, stop strings for instance.

    Returns:
        An iterator over one `DecodedStep` a token.

    Raises:
        OLMoInputError: shapes or ids do not fit, or beams are asked for.
    """
    if params.num_beams > 1:
        raise OLMoInputError(
            f"num_beams={params.num_beams} cannot be decoded token by token: a beam search knows its answer only at "
            "the end. Use generate, or num_beams=1 for streaming."
        )
    check_start(first_logits, params, prompt_ids, is_stopped)
    pipeline = LogitsPipeline(params, first_logits, prompt_ids, logits_processors)
    return _decode(step, first_logits, params, pipeline, generator, is_stopped)


@torch.no_grad()
def generate(
    step: DecodeStep,
    first_logits: Tensor,
    params: GenerationParams,
    *,
    prompt_ids: Tensor | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
    generator: Generators = None,
    is_stopped: StopCheck | None = None,
) -> GeneratedTokens:
    """Generate to the end: greedy, sampled, or by beam search when `num_beams` is above 1.

    Args:
        step: the model after its prompt.
        first_logits: float [B, V], logits of the first new token.
        params: the settings.
        prompt_ids: int64 [B, L], for the repetition penalty; negative ids are passed over.
        logits_processors: the user's hooks.
        generator: source of randomness.
        is_stopped: further reason to end a row, stop strings for instance.

    Returns:
        Token ids [B, S], S the longest row; with `output_scores` also log-probabilities [B, S], or [B] from beams.

    Raises:
        OLMoInputError: shapes or ids do not fit.
    """
    if params.num_beams > 1:
        return beam_search(
            step,
            first_logits,
            params,
            prompt_ids=prompt_ids,
            logits_processors=logits_processors,
            is_stopped=is_stopped,
        )
    steps = list(
        decode_tokens(
            step,
            first_logits,
            params,
            prompt_ids=prompt_ids,
            logits_processors=logits_processors,
            generator=generator,
            is_stopped=is_stopped,
        )
    )
    scores = [s.log_probs for s in steps if s.log_probs is not None]
    return GeneratedTokens(
        token_ids=torch.stack([s.token_ids for s in steps], dim=1),  # [B, S]
        scores=torch.stack(scores, dim=1) if scores else None,
    )


@torch.no_grad()
def _decode(
    step: DecodeStep,
    logits: Tensor,
    params: GenerationParams,
    pipeline: LogitsPipeline,
    generator: Generators,
    is_stopped: StopCheck | None,
) -> Iterator[DecodedStep]:
    can_end = bool(params.eos_token_ids) or is_stopped is not None
    is_finished = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    ids: list[list[int]] = [[] for _ in range(logits.shape[0])]
    for n_done in range(1, params.max_new_tokens + 1):
        token_ids = sample(pipeline.forbid_early_end(pipeline(logits)), params, generator)
        log_probs = _chosen_log_probs(logits, token_ids, is_finished) if params.output_scores else None
        if can_end:
            token_ids = token_ids.masked_fill(is_finished, params.fill_id)
            is_ending = torch.isin(token_ids, pipeline.end_ids)
            if is_stopped is not None:
                is_ending |= _stopped_rows(token_ids, is_finished, ids, is_stopped)
            is_finished = is_finished | is_ending
        pipeline.append(token_ids)
        yield DecodedStep(token_ids, log_probs, is_finished)
        if n_done == params.max_new_tokens or (can_end and bool(is_finished.all())):
            return
        logits = step(token_ids)


def _chosen_log_probs(logits: Tensor, token_ids: Tensor, is_finished: Tensor) -> Tensor:
    """Log-probabilities, float32 [B], of the chosen ids [B] under softmax(logits [B, V]); 0 in finished rows."""
    log_probs = logits.float().log_softmax(dim=-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return log_probs.masked_fill(is_finished, 0.0)


def _stopped_rows(token_ids: Tensor, is_finished: Tensor, ids: list[list[int]], is_stopped: StopCheck) -> Tensor:
    """Ask the callback about each live row, bool [B]. Appends the new tokens to `ids`."""
    # One transfer for both tensors: each costs a synchronisation.
    new_ids, finished = torch.stack([token_ids, is_finished.long()]).tolist()
    stopped = [False] * len(new_ids)
    for row, token_id in enumerate(new_ids):
        if not finished[row]:
            ids[row].append(token_id)
            stopped[row] = is_stopped(row, ids[row])
    return torch.tensor(stopped, device=token_ids.device)

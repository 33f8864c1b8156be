"""Batched beam search over a step.

Only the best finished sequence of a row is kept, because only it is returned: a row is done as soon as no live beam can
still beat it. Rows of the step are ordered batch first: row b * K + k is beam k of example b. Letters: B examples,
K beams, V vocabulary, S tokens so far.

Rules, which are those of the field: an end counts only when it is among the K best continuations; the K best
continuations that do not end go on; score = sum of log-probabilities / length ** length_penalty, length counts the end
id (Wu et al. 2016, section 7, with the plain length in place of their lp term).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.generation.logits_processors import LogitsPipeline
from olmo.generation.params import GenerationParams
from olmo.generation.sampling import top_k_candidates, wide_dtype
from olmo.generation.step import DecodeStep, GeneratedTokens, LogitsProcessor, StopCheck, check_start


@torch.no_grad()
def beam_search(
    step: DecodeStep,
    first_logits: Tensor,
    params: GenerationParams,
    *,
    prompt_ids: Tensor | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
    is_stopped: StopCheck | None = None,
) -> GeneratedTokens:
    """Search the likeliest sequence of each row with `num_beams` beams. One beam is greedy decoding.

    Log-probabilities are those after repetition penalty and hooks, normalised again; forbidding end ids before the
    minimum takes their share away without normalising.

    Args:
        step: the model after its prompt, with B rows; it is expanded to B * num_beams rows.
        first_logits: float [B, V], logits of the first new token.
        params: the settings; sampling fields are not read.
        prompt_ids: int64 [B, L], for the repetition penalty; negative ids are passed over.
        logits_processors: the user's hooks; they see B * num_beams rows.
        is_stopped: further reason to end a sequence, stop strings for instance; gets the row of the batch, 0 to B - 1.

    Returns:
        Token ids [B, S]; with `output_scores` also the sequence scores [B].

    Raises:
        OLMoInputError: shapes or ids do not fit.
    """
    check_start(first_logits, params, prompt_ids, is_stopped)
    n_rows, n_beams = first_logits.shape[0], params.num_beams
    device = first_logits.device
    spread = torch.arange(n_rows, device=device).repeat_interleave(n_beams)  # [B*K]
    logits = first_logits[spread]
    prompts = None if prompt_ids is None else prompt_ids.to(device)[spread]
    pipeline = LogitsPipeline(params, logits, prompts, logits_processors)
    beams = _Beams(n_rows, params, device)
    same = torch.arange(n_rows * n_beams, device=device)
    step_is_spread = False
    while True:
        logits = pipeline(logits)
        total = logits.to(beams.scores.dtype).logsumexp(dim=-1, keepdim=True)
        parents, token_ids = beams.extend(pipeline.forbid_early_end(logits), total, pipeline.end_ids)
        if is_stopped is not None:
            beams.end_stopped(is_stopped)
        if beams.is_done():
            return beams.best()
        rows = (parents + torch.arange(n_rows, device=device).unsqueeze(-1) * n_beams).flatten()  # [B*K]
        if not step_is_spread:
            step.reorder(spread)  # all beams of an example still hold its prompt, so no second reorder is needed
            step_is_spread = True
        elif not torch.equal(rows, same):
            step.reorder(rows)
        pipeline.reorder(rows)
        pipeline.append(token_ids.flatten())
        logits = step(token_ids.flatten())


class _Beams:
    """Live beams and the best finished sequence of every example.

    A beam of score -inf is dead: there were fewer continuations than beams, or it has ended, or its example is done.
    """

    def __init__(self, n_rows: int, params: GenerationParams, device: torch.device) -> None:
        self.params = params
        self.length = 0
        dtype = wide_dtype(device)
        # All beams of an example start equal; only the first may speak, or the others would stay copies of it.
        self.scores = torch.full((n_rows, params.num_beams), -torch.inf, dtype=dtype, device=device)
        self.scores[:, 0] = 0
        self.ids = torch.full((n_rows, params.num_beams, params.max_new_tokens), params.fill_id, device=device)
        self.best_scores = torch.full((n_rows,), -torch.inf, dtype=dtype, device=device)
        self.best_lengths = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self.best_ids = self.ids[:, 0].clone()  # [B, max_new_tokens]
        self.rows = torch.arange(n_rows, device=device)

    def extend(self, logits: Tensor, total: Tensor, end_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Move every beam one token on.

        Args:
            logits: float [B*K, V], of the next token.
            total: [B*K, 1], log of the sum of exp(logits), with the forbidden ends.
            end_ids: int64 [n].

        Returns:
            The beam that each new beam comes from, and its new token, both int64 [B, K].
        """
        n_rows, n_beams = self.scores.shape
        # Even if one beam gives all K that go on, they are among its K best and as many more as there are end ids.
        n_best = min(n_beams + len(end_ids), logits.shape[-1])
        chosen, ids = top_k_candidates(logits, n_best)  # [B*K, n_best]
        totals = self.scores.unsqueeze(-1) + (chosen - total).view(n_rows, n_beams, n_best)
        scores, order = totals.flatten(1).sort(dim=-1, descending=True, stable=True)  # [B, K*n_best]
        parents, token_ids = order // n_best, ids.view(n_rows, -1).gather(-1, order)
        is_end = torch.isin(token_ids, end_ids)
        self.length += 1
        self._offer_ends(scores, parents, token_ids, is_end)
        # A stable sort by "is an end" puts those that go on first and leaves them in order.
        order = is_end.long().sort(dim=-1, stable=True).indices[:, :n_beams]
        parents, token_ids = parents.gather(-1, order), token_ids.gather(-1, order)
        self.ids = self.ids[self.rows.unsqueeze(-1), parents]
        self.ids[:, :, self.length - 1] = token_ids
        self.scores = scores.masked_fill(is_end, -torch.inf).gather(-1, order)
        self._retire()
        return parents, token_ids

    def end_stopped(self, is_stopped: StopCheck) -> None:
        """End the live beams that the callback stops."""
        is_live = (self.scores > -torch.inf).tolist()
        ids = self.ids[:, :, : self.length].tolist()
        stopped = [
            [live and is_stopped(row, beam) for live, beam in zip(is_live[row], ids[row], strict=True)]
            for row in range(len(ids))
        ]
        if any(any(row) for row in stopped):
            is_ended = torch.tensor(stopped, device=self.scores.device)
            self._offer_beams(self.scores.masked_fill(~is_ended, -torch.inf))
            self.scores = self.scores.masked_fill(is_ended, -torch.inf)
            self._retire()

    def is_done(self) -> bool:
        """Whether every example has its answer. At the last token the live beams end as they are."""
        if self.length == self.params.max_new_tokens:
            self._offer_beams(self.scores)
            return True
        return bool(torch.isneginf(self.scores).all())

    def best(self) -> GeneratedTokens:
        """The best sequences, cut to the longest."""
        if not bool(self.best_lengths.all()):
            raise OLMoInputError(
                f"beam search found no sequence for row {int(self.best_lengths.argmin())}: the model's logits became "
                "NaN, or every token was forbidden. Look at the dtype (float16 overflows) and at min_new_tokens."
            )
        n_kept = int(self.best_lengths.max())
        scores = self.best_scores.float() if self.params.output_scores else None
        return GeneratedTokens(token_ids=self.best_ids[:, :n_kept], scores=scores)

    def _offer_ends(self, scores: Tensor, parents: Tensor, token_ids: Tensor, is_end: Tensor) -> None:
        """Offer the best end among the K best continuations; all arguments [B, n], best first."""
        n_beams = self.scores.shape[1]
        score, rank = scores.masked_fill(~is_end, -torch.inf)[:, :n_beams].max(dim=-1)  # [B]
        ids = self.ids[self.rows, parents[self.rows, rank]]  # [B, max_new_tokens]
        ids[:, self.length - 1] = token_ids[self.rows, rank]
        self._offer(score, ids)

    def _offer_beams(self, scores: Tensor) -> None:
        """Offer the best beam by these scores [B, K] as it stands."""
        score, beam = scores.max(dim=-1)
        self._offer(score, self.ids[self.rows, beam])

    def _offer(self, totals: Tensor, ids: Tensor) -> None:
        """Keep finished sequences, log-probabilities [B] and ids [B, max_new_tokens], that beat the best so far."""
        scores = totals / self.length**self.params.length_penalty
        is_better = scores > self.best_scores
        self.best_scores = torch.where(is_better, scores, self.best_scores)
        self.best_lengths = self.best_lengths.masked_fill(is_better, self.length)
        self.best_ids = torch.where(is_better.unsqueeze(-1), ids, self.best_ids)

    def _retire(self) -> None:
        """End the search of examples whose live beams can no longer beat their best finished sequence.

        A live log-probability only falls, and is at most 0. Dividing by length ** penalty lifts it most at the greatest
        length for a penalty above 0, and hurts it least at the next length otherwise.
        """
        penalty, longest = self.params.length_penalty, self.params.max_new_tokens
        kindest = longest if penalty > 0 else min(self.length + 1, longest)
        is_beaten = self.best_scores >= self.scores.amax(dim=-1) / kindest**penalty
        if self.params.num_beams == 1:
            is_beaten |= self.best_lengths > 0  # a single beam that has ended has none beside it to go on with
        self.scores = self.scores.masked_fill(is_beaten.unsqueeze(-1), -torch.inf)

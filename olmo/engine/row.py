"""One answer in the making: chooses its tokens, turns them into text, and knows when it ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from olmo.engine.request import Finish, Piece, Tell
from olmo.generation.logits_processors import LogitsPipeline
from olmo.generation.sampling import sample
from olmo.generation.step import LogitsProcessor
from olmo.generation.stop_strings import StopStringFilter, StopStringMatcher
from olmo.models.generation_request import Request
from olmo.tokenizer import IncrementalDecoder, Tokenizer


class Row:
    """An answer.

    Args:
        tokenizer: of the model.
        request: the checked request.
        hooks: called on the logits of every token.
        choice: number of this answer among those of its request.
        tell: is told of every piece.
        n_top_log_probs: likeliest tokens to tell of; None: no log-probabilities.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        hooks: Sequence[LogitsProcessor],
        choice: int,
        tell: Tell,
        n_top_log_probs: int | None = None,
    ) -> None:
        self.request, self.hooks, self.choice, self.n_top = request, tuple(hooks), choice, n_top_log_probs
        self.ids: list[int] = []
        self.finish: Finish | None = None
        self._tell = tell
        self._decoder = IncrementalDecoder(tokenizer)
        self._shown = StopStringFilter(StopStringMatcher(request.params.stop_strings, tokenizer.decode))
        self._is_start = True
        self._pipeline: LogitsPipeline | None = None
        params = request.params
        self.is_plain = (
            params.is_greedy and not self.hooks and n_top_log_probs is None and params.repetition_penalty == 1.0
            and params.min_new_tokens == 0
        )  # fmt: skip
        """Whether the token of the largest logit is always the one."""

    @property
    def last_token(self) -> int:
        """The newest token, which the model has not seen yet."""
        return self.ids[-1]

    def choose(self, logits: Tensor) -> None:
        """Choose a token by logits `[1, V]`. A hook that fails ends the answer."""
        try:
            changed = logits
            if not self.is_plain:
                if self._pipeline is None:
                    self._pipeline = LogitsPipeline(
                        self.request.params, logits, self.request.text.input_ids, self.hooks
                    )
                changed = self._pipeline(logits)
            token_ids = sample(changed, self.request.params, self.request.generator)
            if self._pipeline is not None:
                self._pipeline.append(token_ids)
        except Exception as error:
            self.end(Finish.error, error)
            return
        token_id = int(token_ids)
        self.take(token_id, *self._log_probs(logits, token_id))

    def take(self, token_id: int, log_prob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> None:
        """Go on with a chosen token."""
        self.ids.append(token_id)
        params = self.request.params
        is_end = token_id in params.eos_token_ids
        text = "" if is_end else self._begun(self._shown.push(self._decoder.push(token_id)))
        self._tell(Piece(self.choice, text, token_id, log_prob, top))
        if is_end or self._shown.is_stopped:
            self.end(Finish.stop)
        elif len(self.ids) >= min(params.max_new_tokens, self.request.room[0]):
            self.end(Finish.length)

    def end(self, finish: Finish, error: BaseException | None = None) -> None:
        """Say that nothing more comes, and what text was still held back."""
        rest = self._begun(self._shown.push(self._decoder.flush()) + self._shown.finish())
        self.finish = finish
        self._tell(Piece(self.choice, rest, finish=finish, error=error))

    def _begun(self, text: str) -> str:
        """Text without the space that every answer begins with."""
        if self._is_start and text:
            self._is_start = False
            return text.removeprefix(" ")
        return text

    def _log_probs(self, logits: Tensor, token_id: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        if self.n_top is None:
            return None, ()
        log_probs = torch.log_softmax(logits[0].float(), dim=-1)
        best = log_probs.topk(min(self.n_top, len(log_probs))) if self.n_top else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return float(log_probs[token_id]), top

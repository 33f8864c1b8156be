"""Changes to logits before a token is chosen: repetition penalty, minimum length, the user's hooks.

Pure functions over [B, V], and the small pipeline that keeps the history they need. Nothing here changes its input.
Source: the repetition penalty is that of CTRL (Keskar et al. 2019, section 4.1), in the form the field uses: positive
logits are divided, negative ones multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.generation.params import GenerationParams
from olmo.generation.step import LogitsProcessor


def seen_mask(token_ids: Tensor, vocab_size: int) -> Tensor:
    """Which ids occur in each row.

    Args:
        token_ids: int64 [B, L]. Ids outside 0 to V - 1 (fillers, input-only ids) are passed over.
        vocab_size: V.

    Returns:
        bool [B, V].
    """
    slot = torch.where((token_ids >= 0) & (token_ids < vocab_size), token_ids, vocab_size)
    mask = torch.zeros(token_ids.shape[0], vocab_size + 1, dtype=torch.bool, device=token_ids.device)
    return mask.scatter_(-1, slot, True)[:, :vocab_size].contiguous()


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that have occurred less likely (penalty above 1) or more likely (below 1).

    Args:
        logits: float [B, V].
        seen: bool [B, V].
        penalty: above 0; 1 changes nothing.

    Returns:
        Logits [B, V].
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_tokens(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Set the logits [B, V] of some ids, int64 [n] in 0 to V - 1, to -inf."""
    return logits.index_fill(-1, token_ids, -torch.inf)


class LogitsPipeline:
    """Repetition penalty and hooks over a growing history, and the ban on end ids before the minimum length.

    Args:
        params: `repetition_penalty`, `min_new_tokens`, `max_new_tokens` and `eos_token_ids` are read.
        first_logits: float [B, V], for shape and device.
        prompt_ids: int64 [B, L]; its tokens count as repeated. None: only generated ones do.
        hooks: called in order, after the repetition penalty.
    """

    def __init__(
        self,
        params: GenerationParams,
        first_logits: Tensor,
        prompt_ids: Tensor | None = None,
        hooks: Sequence[LogitsProcessor] = (),
    ) -> None:
        n_rows, vocab_size = first_logits.shape
        device = first_logits.device
        self.params = params
        self.hooks = tuple(hooks)
        self.length = 0
        self.end_ids = torch.tensor(params.eos_token_ids, dtype=torch.int64, device=device)
        self.seen: Tensor | None = None
        if params.repetition_penalty != 1:
            nothing = torch.zeros(n_rows, 0, dtype=torch.int64, device=device)
            self.seen = seen_mask(nothing if prompt_ids is None else prompt_ids.to(device), vocab_size)
        self._history: Tensor | None = None
        if self.hooks:
            self._history = torch.full((n_rows, params.max_new_tokens), params.fill_id, device=device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply penalty and hooks. Float [B, V] -> float32 [B, V]; the same tensor where there is nothing to do."""
        if self.seen is None and self._history is None:
            return logits
        logits = logits.float()
        if self.seen is not None:
            logits = apply_repetition_penalty(logits, self.seen, self.params.repetition_penalty)
        if self._history is None:
            return logits
        for hook in self.hooks:
            changed = hook(self._history[:, : self.length], logits)
            _check_hook_output(hook, changed, logits)
            logits = changed
        return logits

    def forbid_early_end(self, logits: Tensor) -> Tensor:
        """Forbid end ids until the minimum length is reached. Float [B, V] -> [B, V]. Last, so that it always holds."""
        if self.length >= self.params.min_new_tokens or not self.params.eos_token_ids:
            return logits
        return forbid_tokens(logits, self.end_ids)

    def append(self, token_ids: Tensor) -> None:
        """Add the chosen tokens, int64 [B], to the history."""
        if self.seen is not None:
            slot = token_ids.clamp(0, self.seen.shape[-1] - 1)  # only a pad can be outside, in a row that has ended
            self.seen.scatter_(-1, slot.unsqueeze(-1), True)
        if self._history is not None:
            self._history[:, self.length] = token_ids
        self.length += 1

    def reorder(self, rows: Tensor) -> None:
        """Make new row i a copy of old row `rows[i]`; int64 [B']."""
        if self.seen is not None:
            self.seen = self.seen[rows]
        if self._history is not None:
            self._history = self._history[rows]


def _check_hook_output(hook: LogitsProcessor, changed: object, logits: Tensor) -> None:
    name = getattr(hook, "__name__", type(hook).__name__)
    if not isinstance(changed, Tensor) or changed.shape != logits.shape:
        seen = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise OLMoInputError(
            f"logits processor {name!r} returned {seen}; it must return logits of the shape it was given, "
            f"{list(logits.shape)}."
        )
    is_choosable = torch.isfinite(changed).any(dim=-1) & ~torch.isnan(changed).any(dim=-1)
    if not is_choosable.all():
        row = int((~is_choosable).nonzero()[0])
        raise OLMoInputError(
            f"logits processor {name!r} left row {row} without a token to choose: all its logits are -inf, or some are "
            "NaN. Leave at least one finite logit in each row."
        )

"""Rows of different requests that decode together: rows join after their prompt and leave at any step.

The cache is aligned on the right. All rows write to one slot at a time, so no row needs a place of its own; what a
shorter row has before its first token is masked. When no row needs the leftmost slots any more, they are dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.models.generate import CachedStep
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import Llm

ROOM = 32
"""Slots that are reserved ahead; when they are full the buffers grow."""


class RunningRows:
    """A batch whose rows come and go.

    Args:
        llm: the language model.
    """

    def __init__(self, llm: Llm) -> None:
        self.llm = llm
        self._cache: KVCache | None = None
        self._is_valid = torch.zeros(0, 0, dtype=torch.bool)  # [B, length of the cache]
        self._positions = torch.zeros(0, 1, dtype=torch.long)  # [B, 1]

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def length(self) -> int:
        """Slots of the cache that are in use, by whichever row."""
        return self._is_valid.shape[1]

    def join(self, step: CachedStep) -> None:
        """Add the rows of prompts that have just been run; they come last."""
        new_length = step.cache.length
        valid = step.key_is_valid
        if valid is None:
            valid = torch.ones(step.cache.batch_size, new_length, dtype=torch.bool, device=step.positions.device)
        valid = valid[:, :new_length]
        if self._cache is None or not len(self):
            self._is_valid, self._positions, self._cache = valid, step.positions, step.cache
        else:
            length = max(self.length, new_length)
            self._cache = _joined(self._cache, step.cache, length)
            self._is_valid = torch.cat([_on_the_right(self._is_valid, length), _on_the_right(valid, length)])
            self._positions = torch.cat([self._positions, step.positions])
        self._drop_unused()

    def keep(self, rows: list[int]) -> None:
        """Let only these rows go on, in this order; a row may repeat."""
        if rows == list(range(len(self))) or self._cache is None:
            return
        if not rows:
            self._cache, self._is_valid, self._positions = None, self._is_valid[:0, :0], self._positions[:0]
            return
        index = torch.tensor(rows, device=self._positions.device)
        self._cache.reorder(index)
        self._is_valid, self._positions = self._is_valid[index], self._positions[index]
        self._drop_unused()

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Append a token to each row.

        Args:
            token_ids: `[B]`.

        Returns:
            Logits `[B, V]` after them.
        """
        assert self._cache is not None, "there are rows"
        self._is_valid = torch.cat([self._is_valid, self._is_valid.new_ones(len(self), 1)], dim=1)
        embeds = self.llm.embed(token_ids[:, None])  # [B, 1, D]
        mask = self._is_valid[:, None, None]  # [B, 1, 1, S]
        out = self.llm(embeds, position_ids=self._positions, attention_mask=mask, cache=self._cache)
        self._positions = self._positions + 1
        return self.llm.logits(out.hidden[:, -1])

    def _drop_unused(self) -> None:
        """Leave out the leftmost slots where no row has a token."""
        assert self._cache is not None, "there are rows"
        used = self._is_valid.any(dim=0)
        first = int(used.long().argmax()) if self.length else 0
        if first:
            self._cache = _from_slot(self._cache, first)
            self._is_valid = self._is_valid[:, first:]


def _joined(old: KVCache, new: KVCache, length: int) -> KVCache:
    """Rows of both caches, aligned on the right of `length` slots."""
    pairs = []
    for (old_k, old_v), (new_k, new_v) in zip(old.as_tuple(), new.as_tuple(), strict=True):
        keys = torch.cat([_slots_on_the_right(old_k, length), _slots_on_the_right(new_k, length)])
        values = torch.cat([_slots_on_the_right(old_v, length), _slots_on_the_right(new_v, length)])
        pairs.append((keys, values))
    return KVCache.from_tuple(pairs, ROOM)


def _from_slot(cache: KVCache, first: int) -> KVCache:
    return KVCache.from_tuple([(k[:, :, first:], v[:, :, first:]) for k, v in cache.as_tuple()], ROOM)


def _slots_on_the_right(buffer: Tensor, length: int) -> Tensor:
    """`[B, Hkv, length, Dh]`, zeros before what there is."""
    return torch.nn.functional.pad(buffer, (0, 0, length - buffer.shape[2], 0))


def _on_the_right(is_valid: Tensor, length: int) -> Tensor:
    """`[B, length]`, False before what there is."""
    return torch.nn.functional.pad(is_valid, (length - is_valid.shape[1], 0))

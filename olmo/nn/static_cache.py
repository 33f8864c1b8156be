"""A cache of keys and values whose tensors never change shape or address, which is what a recorded step needs.

`KVCache` hands out views that grow with every token; whatever is compiled for one length has to be compiled again for
the next. Here a pass of one token is handed whole buffers, and a mask says which slots count. Where the token is
written is a number in a tensor, so one graph serves every step.

Source: the static caches of gpt-fast (PyTorch 2023) and of `transformers`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from olmo.nn.kv_cache import KVCache


class StaticKVCache(KVCache):
    """A `KVCache` of one size.

    Passes of several tokens write and read as they do there; a pass of one token goes through `OneSlot`.

    Args:
        n_layers: Layers that write.
        batch_size: Rows B.
        n_kv_heads: Key and value heads Hkv.
        head_dim: Width of a head.
        max_length: Slots S.
        dtype: Dtype of the buffers.
        device: Device of the buffers.

    Attributes:
        place: int64 `[1]`, the slot of the next token, always `length`.
    """

    def __init__(
        self,
        n_layers: int,
        batch_size: int,
        n_kv_heads: int,
        head_dim: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | Sequence[torch.device] = "cpu",
    ) -> None:
        super().__init__(n_layers, batch_size, n_kv_heads, head_dim, max_length, dtype, device)
        self.place = torch.zeros(1, dtype=torch.long, device=self._keys[0].device)
        self.fill(())

    @property
    def keys(self) -> list[Tensor]:
        """Keys of each layer, whole buffers `[B, Hkv, S, Dh]`."""
        return self._keys

    @property
    def values(self) -> list[Tensor]:
        """Values of each layer, whole buffers `[B, Hkv, S, Dh]`."""
        return self._values

    def fill(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Hold copies of these keys and values, and nothing else.

        Args:
            past: One `(keys, values)` a layer, `[B, Hkv, length, Dh]`, length at most S; none empties the cache.
        """
        self.length = past[0][0].shape[2] if past else 0
        for layer, buffers in enumerate(zip(self._keys, self._values, strict=True)):
            for which, buffer in enumerate(buffers):
                if past:
                    buffer.narrow(2, 0, self.length).copy_(past[layer][which])
                # What is masked is multiplied by 0, and 0 times what an uninitialised number may be is no number.
                buffer.narrow(2, self.length, buffer.shape[2] - self.length).zero_()
        self._tell_place()

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.update`; what has no room is our own mistake."""
        assert self.length + k.shape[2] <= self.max_length, f"{self.length} + {k.shape[2]} of {self.max_length} slots"
        return super().update(layer, k, v)

    def advance(self, n: int) -> None:
        """See `KVCache.advance`."""
        super().advance(n)
        self._tell_place()

    def reserve(self, length: int) -> None:
        """There is room for `max_length` slots and no more."""
        assert length <= self.max_length, f"{length} of {self.max_length} slots"

    def take_back(self, n: int) -> None:
        """See `KVCache.take_back`."""
        super().take_back(n)
        self._tell_place()

    def reorder(self, rows: Tensor) -> None:
        """Make row `i` continue what row `rows[i]` held, in place; a row may repeat, but their number stays.

        Args:
            rows: Integers `[B]`.
        """
        assert len(rows) == self.batch_size, f"{len(rows)} rows of {self.batch_size}"
        for buffer in (*self._keys, *self._values):
            known = buffer.narrow(2, 0, self.length)
            known.copy_(known.index_select(0, rows.to(buffer.device)))

    def _tell_place(self) -> None:
        self.place.fill_(self.length)


class OneSlot:
    """The tensors of a `StaticKVCache` for one pass of one token: written at `place`, read whole.

    It counts nothing: whoever runs the pass advances the cache.

    Args:
        keys: Of each layer, `[B, Hkv, S, Dh]`.
        values: Of each layer, `[B, Hkv, S, Dh]`.
        place: int64 `[1]`, the slot to write.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], place: Tensor) -> None:
        self.keys, self.values, self.place = keys, values, place

    @property
    def length(self) -> int:
        """Slots besides the new one. All of them are handed to attention, so its mask has to hide the empty ones."""
        return self.keys[0].shape[2] - 1

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token `[B, Hkv, 1, Dh]` of a layer.

        Returns:
            The whole buffers `[B, Hkv, S, Dh]`.
        """
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.place, k.to(keys.dtype))
        values.index_copy_(2, self.place, v.to(values.dtype))
        return keys, values

    def advance(self, n: int) -> None:
        """One token is all that a pass may have; the cache itself is advanced outside of it."""
        assert n == 1, f"{n} tokens for one slot"

"""Keys and values of past tokens, in memory that is reserved ahead.

All rows of a batch write to the same slots. Rows of different lengths are padded, and the attention mask and the
position ids take care of the padding; the cache knows nothing of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class LayerCache(Protocol):
    """What attention asks of a cache."""

    @property
    def length(self) -> int:
        """Slots before the new tokens, in what `update` returns."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values `[B, Hkv, L, Dh]` of a layer; returns all of it, `[B, Hkv, S, Dh]`."""

    def advance(self, n: int) -> None:
        """Count `n` slots, which every layer has written, as known."""


class KVCache:
    """One key and one value buffer a layer, each `[B, Hkv, max_length, Dh]`.

    Args:
        n_layers: Layers that write.
        batch_size: Rows B.
        n_kv_heads: Key and value heads Hkv.
        head_dim: Width of a head.
        max_length: Slots to reserve; when more are written, the buffers double.
        dtype: Dtype of the buffers.
        device: Device of the buffers, or one for each layer.
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
        shape = (batch_size, n_kv_heads, max_length, head_dim)
        devices = [device] * n_layers if isinstance(device, torch.device | str) else device
        self._keys = [torch.empty(shape, dtype=dtype, device=place) for place in devices]
        self._values = [torch.empty(shape, dtype=dtype, device=place) for place in devices]
        self.length = 0

    @property
    def n_layers(self) -> int:
        """Layers."""
        return len(self._keys)

    @property
    def n_bytes(self) -> int:
        """Memory that is reserved, in bytes."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    @property
    def batch_size(self) -> int:
        """Rows B."""
        return self._keys[0].shape[0]

    @property
    def max_length(self) -> int:
        """Slots reserved at this moment."""
        return min(buffer.shape[2] for buffer in self._keys)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values behind the `length` known ones.

        Call once a layer, then `advance` once.

        Args:
            layer: Which layer writes, from 0.
            k: New keys `[B, Hkv, L, Dh]`; cast to the dtype of the buffer.
            v: New values `[B, Hkv, L, Dh]`.

        Returns:
            Views `[B, Hkv, length + L, Dh]` of all keys and values of the layer; no copies.
        """
        start, new = self.length, k.shape[2]
        end = start + new
        keys, values = self._keys[layer], self._values[layer]
        if end > keys.shape[2]:
            capacity = max(end, 2 * keys.shape[2])
            keys = self._keys[layer] = _enlarged(keys, start, capacity)
            values = self._values[layer] = _enlarged(values, start, capacity)
        keys.narrow(2, start, new).copy_(k)
        values.narrow(2, start, new).copy_(v)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def advance(self, n: int) -> None:
        """Count `n` slots, which every layer has written, as known."""
        self.length += n

    def reserve(self, length: int) -> None:
        """Make room for `length` slots in all."""
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer.shape[2] < length:
                    buffers[layer] = _enlarged(buffer, self.length, length)

    def take_back(self, n: int) -> None:
        """Forget the last `n` slots."""
        assert 0 <= n <= self.length, f"{n} of {self.length}"
        self.length -= n

    def reorder(self, rows: Tensor) -> None:
        """Make row `i` continue what row `rows[i]` held; a row may repeat or vanish, so B may change.

        Args:
            rows: Integers `[new B]`.
        """
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                known = buffer.narrow(2, 0, self.length).index_select(0, rows.to(buffer.device))
                buffers[layer] = _enlarged(known, self.length, buffer.shape[2])

    def as_tuple(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """One `(keys, values)` a layer, views `[B, Hkv, length, Dh]`."""
        return tuple(
            (k.narrow(2, 0, self.length), v.narrow(2, 0, self.length))
            for k, v in zip(self._keys, self._values, strict=True)
        )

    @classmethod
    def from_tuple(cls, past: Sequence[tuple[Tensor, Tensor]], extra_length: int = 0) -> KVCache:
        """A cache that continues `past`, with room for `extra_length` more tokens. The tensors are copied."""
        batch_size, n_kv_heads, length, head_dim = past[0][0].shape
        dtype, devices = past[0][0].dtype, [k.device for k, _ in past]
        cache = cls(len(past), batch_size, n_kv_heads, head_dim, length + extra_length, dtype, devices)
        for layer, (k, v) in enumerate(past):
            cache.update(layer, k, v)
        cache.advance(length)
        return cache


def _enlarged(buffer: Tensor, length: int, capacity: int) -> Tensor:
    """A buffer `[B, Hkv, capacity, Dh]` that starts with the first `length` slots of `buffer`."""
    new = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
    new.narrow(2, 0, length).copy_(buffer.narrow(2, 0, length))
    return new

"""`CompiledDecoding`: decoding steps by `torch.compile`, over caches whose tensors keep shape and address.

A step of one token for each row is one graph: embeddings, all blocks, logits. On a GPU it is recorded as a CUDA graph
and launched as a whole. The number of rows and the length of the cache are symbols in it, so two compilations serve all
prompts, one for a single row and one for more. Passes of several tokens, prompts among them, run as they always do.
"""

from __future__ import annotations

import threading
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import Llm
from olmo.nn.static_cache import OneSlot, StaticKVCache

LENGTH_STEP = 256
"""Caches have a multiple of so many slots: a CUDA graph belongs to one length, and so few are recorded."""

MOST_KEPT = 4
"""Caches that are kept for the next prompt. A new one has other addresses, for which a CUDA graph is recorded again."""

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What `torch.compile` knows."""

Shape = tuple[int, int, torch.dtype, torch.device]
"""Rows, slots, type and device of a cache."""


@dataclass
class _Kept:
    """Buffers, and the cache that uses them at this moment, if any does."""

    shape: Shape
    cache: StaticKVCache
    user: Callable[[], object | None]

    @property
    def is_free(self) -> bool:
        """Whether nobody decodes with them."""
        return self.user() is None


class Lease:
    """The right to a cache, for as long as this object is held.

    Attributes:
        cache: what it is the right to.
    """

    def __init__(self, cache: StaticKVCache) -> None:
        self.cache = cache


class CompiledDecoding:
    """What makes `generate` and `stream` of a model decode by a compiled step.

    A model uses it where it has one; `model.compile_decoding()` gives it one. The first answer waits for the compiler.
    Where the compiler fails, it is said once, and decoding goes on without it.

    Args:
        mode: one of `MODES`; None: `"reduce-overhead"`, which records CUDA graphs, on a GPU, else `"default"`.
        backend: who compiles, as `torch.compile` takes it. Modes are those of inductor.

    Attributes:
        n_steps: steps that were taken by the compiled function so far.
        failure: why the compiler is not used any more; None while it is.

    Raises:
        OLMoConfigurationError: an unknown mode or backend, or a mode for another backend than inductor.
    """

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        backends = torch.compiler.list_backends(exclude_tags=())
        if backend not in backends:
            raise OLMoConfigurationError(f"{backend!r} cannot be meant; there are {', '.join(backends)}", "backend")
        if mode is not None and (mode not in MODES or backend != "inductor"):
            raise OLMoConfigurationError(
                f"{mode!r} cannot be meant; allowed: None, and for backend='inductor' also {', '.join(MODES)}", "mode"
            )
        self.mode, self.backend = mode, backend
        self.n_steps = 0
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._functions: dict[str, Callable[..., Tensor]] = {}
        self._kept: list[_Kept] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy compiles for itself."""
        return type(self), (self.mode, self.backend)

    def clear(self) -> None:
        """Let go of the kept caches. What is compiled stays."""
        with self._lock:
            self._kept = []

    @property
    def n_bytes(self) -> int:
        """Memory of the kept caches."""
        return sum(kept.cache.n_bytes for kept in self._kept)

    def lease(self, past: KVCache, n_new: int) -> Lease:
        """A cache of fixed size that holds what `past` holds, with room for `n_new` tokens more."""
        pairs = past.as_tuple()
        batch_size, n_kv_heads, length, head_dim = pairs[0][0].shape
        n_slots = -(-max(length + n_new, 1) // LENGTH_STEP) * LENGTH_STEP
        shape = (batch_size, n_slots, pairs[0][0].dtype, pairs[0][0].device)
        with self._lock:
            found = next((kept for kept in self._kept if kept.shape == shape and kept.is_free), None)
            if found is None:
                with torch.inference_mode(False):  # what is made in it could not be written to after it
                    cache = StaticKVCache(len(pairs), batch_size, n_kv_heads, head_dim, n_slots, *shape[2:])
                for tensor in (*cache.keys, *cache.values):
                    torch._dynamo.mark_static_address(tensor)
                    torch._dynamo.maybe_mark_dynamic(tensor, (0, 2))
                found = _Kept(shape, cache, lambda: None)
            else:
                self._kept.remove(found)
            lease = Lease(found.cache)
            found.user = weakref.ref(lease)
            self._kept = [*self._kept, found][-MOST_KEPT:]  # who is let go of while in use still has it
        lease.cache.fill(pairs)
        return lease

    def step(self, llm: Llm, token_ids: Tensor, positions: Tensor, cache: StaticKVCache, is_valid: Tensor) -> Tensor:
        """Append one token to each row.

        Args:
            llm: the language model.
            token_ids: int64 `[B, 1]`.
            positions: int64 `[B, 1]`.
            cache: with room for one token; it is advanced.
            is_valid: boolean `[B, S]` over all slots, False on padding.

        Returns:
            Logits `[B, 1, V]` after it.
        """
        arguments = (token_ids, positions, cache.place, is_valid, cache.keys, cache.values)
        logits = None if self.failure is not None else self._run_compiled(llm, arguments)
        if logits is None:
            logits = one_token(llm, *arguments)
        cache.advance(1)
        return logits

    def _run_compiled(self, llm: Llm, arguments: tuple[Any, ...]) -> Tensor | None:
        """The logits; None where the compiler failed, which it does before anything has run."""
        token_ids, positions, _, is_valid, _, _ = arguments
        for tensor, dims in ((token_ids, 0), (positions, 0), (is_valid, (0, 1))):
            torch._dynamo.maybe_mark_dynamic(tensor, dims)
        try:
            logits = self._function(token_ids.device)(llm, *arguments)
        except (
            torch._dynamo.exc.TorchDynamoException,
            torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode,
        ) as error:
            self.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            warnings.warn(
                f"the decoding step cannot be compiled here ({self.failure}); answers are decoded without", stacklevel=2
            )
            return None
        self.n_steps += 1
        return logits.clone() if logits.is_cuda else logits  # the next replay of a CUDA graph writes over its results

    def _function(self, device: torch.device) -> Callable[..., Tensor]:
        """The compiled step for a kind of device."""
        found = self._functions.get(device.type)
        if found is None:
            is_default = self.mode is None and self.backend == "inductor"
            mode = "reduce-overhead" if is_default and device.type == "cuda" else self.mode
            # torch counts compilations by code object and stops after a few; so each of these has one of its own.
            own = types.FunctionType(one_token.__code__.replace(), one_token.__globals__, one_token.__name__)
            found = torch.compile(own, fullgraph=True, dynamic=False, backend=self.backend, mode=mode)
            self._functions[device.type] = found
        return found


def one_token(
    llm: Llm,
    token_ids: Tensor,
    positions: Tensor,
    place: Tensor,
    is_valid: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
) -> Tensor:
    """One step in fixed shapes: what is compiled. It has no number that changes from step to step outside of a tensor.

    Args:
        llm: the language model.
        token_ids: int64 `[B, 1]`.
        positions: int64 `[B, 1]`.
        place: int64 `[1]`, the slot that the token is written to.
        is_valid: boolean `[B, S]`, False on padding.
        keys: of each layer `[B, Hkv, S, Dh]`, written to.
        values: of each layer `[B, Hkv, S, Dh]`, written to.

    Returns:
        Logits `[B, 1, V]`.
    """
    slots = torch.arange(is_valid.shape[1], device=is_valid.device)
    mask = (is_valid & (slots <= place))[:, None, None]  # [B, 1, 1, S]
    out = llm(llm.embed(token_ids), position_ids=positions, attention_mask=mask, cache=OneSlot(keys, values, place))
    return llm.logits(out.hidden)

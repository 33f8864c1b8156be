"""`CompiledDecoding`: decoding steps and prompts by `torch.compile`, over caches that keep shape and address.

A step of one token for each row is one graph: embeddings, all blocks, logits. On a GPU it is recorded as a CUDA graph
and launched as a whole. The number of rows and the length of the cache are symbols in it, so two compilations serve all
prompts, one for a single row and one for more. The pass over a prompt can be compiled too; its length is a symbol as
well, and it is no CUDA graph, which would be one for each length. Other passes of several tokens run as they always do.
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
from olmo.nn.llm_config import BlockType
from olmo.nn.static_cache import OneSlot, StaticKVCache

LENGTH_STEP = 256
"""Caches have a multiple of so many slots: a CUDA graph belongs to one length, and so few are recorded."""

MOST_KEPT = 4
"""Caches that are kept for the next prompt. A new one has other addresses, for which a CUDA graph is recorded again."""

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What `torch.compile` knows."""

NO_GRAPHS = "max-autotune-no-cudagraphs"

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
        prompts: compile the pass over prompts too.

    Attributes:
        n_steps: steps that were taken by the compiled function so far.
        n_prompts: passes over prompts that were.
        failure: why the compiler is not used any more; None while it is.

    Raises:
        OLMoConfigurationError: an unknown mode or backend, or a mode for another backend than inductor.
    """

    def __init__(self, mode: str | None = None, backend: str = "inductor", prompts: bool = False) -> None:
        backends = torch.compiler.list_backends(exclude_tags=())
        if backend not in backends:
            raise OLMoConfigurationError(f"{backend!r} cannot be meant; there are {', '.join(backends)}", "backend")
        if mode is not None and (mode not in MODES or backend != "inductor"):
            raise OLMoConfigurationError(
                f"{mode!r} cannot be meant; allowed: None, and for backend='inductor' also {', '.join(MODES)}", "mode"
            )
        self.mode, self.backend, self.prompts = mode, backend, prompts
        self.n_steps = self.n_prompts = 0
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {}
        self._kept: list[_Kept] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy compiles for itself."""
        return type(self), (self.mode, self.backend, self.prompts)

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
        for tensor, dims in ((token_ids, 0), (positions, 0), (is_valid, (0, 1))):
            torch._dynamo.maybe_mark_dynamic(tensor, dims)
        arguments = (llm, token_ids, positions, cache.place, is_valid, cache.keys, cache.values)
        logits = self._run_compiled(one_token, token_ids.device, arguments)
        if logits is None:
            logits = one_token(*arguments)
        else:
            self.n_steps += 1
            logits = logits.clone() if logits.is_cuda else logits  # the next replay of a CUDA graph writes over it
        cache.advance(1)
        return logits

    def read_prompt(
        self, llm: Llm, embeds: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache
    ) -> Tensor | None:
        """Run a prompt through the compiled pass, where there is one for it.

        Args:
            llm: the language model.
            embeds: `[B, L, D]`.
            positions: int64 `[B, L]`.
            mask: boolean `[B, 1, L, L]`, or None for plain causal attention.
            cache: empty; it is filled.

        Returns:
            Hidden states `[B, L, D]`; None where the prompt is to be run as usual, and then nothing has changed.
        """
        # Routed tokens are grouped by counts that depend on data, which one graph cannot hold for long prompts.
        if not self.prompts or embeds.shape[1] < 2 or llm.config.block_type is BlockType.olmoe:
            return None
        torch._dynamo.maybe_mark_dynamic(embeds, (0, 1))
        torch._dynamo.maybe_mark_dynamic(positions, (0, 1))
        if mask is not None:
            torch._dynamo.maybe_mark_dynamic(mask, (0, 2, 3))
        found = self._run_compiled(whole_prompt, embeds.device, (llm, embeds, positions, mask))
        if found is None:
            return None
        hidden, pairs = found
        for layer, (keys, values) in enumerate(pairs):
            cache.update(layer, keys, values)
        cache.advance(embeds.shape[1])
        self.n_prompts += 1
        return hidden

    def _run_compiled(self, function: Callable[..., Any], device: torch.device, arguments: tuple[Any, ...]) -> Any:
        """What a compiled function returns; None where the compiler failed, which it does before anything has run."""
        if self.failure is not None:
            return None
        try:
            return self._compiled(function, device)(*arguments)
        except (
            torch._dynamo.exc.TorchDynamoException,
            torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode,
        ) as error:
            self.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            warnings.warn(
                f"the decoding step cannot be compiled here ({self.failure}); answers are decoded without", stacklevel=2
            )
            return None

    def _compiled(self, function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
        """A compiled function for a kind of device."""
        key = (function.__name__, device.type)
        if key not in self._functions:
            # torch counts compilations by code object and stops after a few; so each of these has one of its own.
            own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
            mode = self._mode(function is one_token, device)
            self._functions[key] = torch.compile(own, fullgraph=True, dynamic=False, backend=self.backend, mode=mode)
        return self._functions[key]

    def _mode(self, is_step: bool, device: torch.device) -> str | None:
        if not is_step:
            return NO_GRAPHS if self.mode in ("max-autotune", NO_GRAPHS) else None
        is_default = self.mode is None and self.backend == "inductor"
        return "reduce-overhead" if is_default and device.type == "cuda" else self.mode


class _Collected:
    """A `LayerCache` of one pass, which keeps keys and values as they are."""

    length = 0

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep both."""
        self.pairs.append((k, v))
        return k, v

    def advance(self, n: int) -> None:
        """There is nothing behind them."""


def whole_prompt(
    llm: Llm, embeds: Tensor, positions: Tensor, mask: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A pass over a prompt: what is compiled for it.

    Args:
        llm: the language model.
        embeds: `[B, L, D]`.
        positions: int64 `[B, L]`.
        mask: boolean `[B, 1, L, L]`, or None for plain causal attention.

    Returns:
        Hidden states `[B, L, D]`, and keys and values `[B, Hkv, L, Dh]` of each layer.
    """
    collected = _Collected()
    out = llm(embeds, position_ids=positions, attention_mask=mask, cache=collected)
    return out.hidden, collected.pairs


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

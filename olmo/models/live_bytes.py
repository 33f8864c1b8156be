"""How many bytes the tensors of a computation hold at once, found without computing it.

The computation runs as it is written, over a model on the meta device: shapes and lifetimes are real, numbers are not
there. What decides sizes (ids, places, masks) stays real and on the CPU. Where numbers that are not there would decide,
the usual is taken: things are sorted already, experts are chosen in turn, checks of values pass.

Counted is what operators return. What a kernel takes for itself while it runs is not; for the fused attention its
result is counted, and not the scores, which it never holds as a whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_aten = torch.ops.aten

_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor)
"""Operators that take real indices, a mask among them, for a tensor without numbers."""


class LiveBytes(TorchDispatchMode):
    """Within this context, tensors without numbers may meet real ones, and what is alive is counted.

    Attributes:
        now: bytes of the tensors that were made within and are alive.
        peak: the most that `now` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()
        self._attention = _AttentionByShape()

    def __enter__(self) -> Self:
        """Begin to count."""
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Count no more."""
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One operator."""
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_meta for tensor in given):
            result = _without_numbers(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf, given)
        return result

    def _count(self, tensor: Tensor, given: Sequence[Tensor]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or any(other.untyped_storage()._cdata == key for other in given):
            return
        n_bytes = storage.nbytes()
        self._known.add(key)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, n_bytes)

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


class _AttentionByShape(TorchFunctionMode):
    """The fused attention of a device that has one; on the meta device torch would make all scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """One call."""
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            query, value = args[0], args[2]
            batch, n_heads, length, _ = query.shape
            return query.new_empty(batch, length, n_heads, value.shape[-1]).transpose(1, 2)
        return func(*args, **(kwargs or {}))


def _without_numbers(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operator on tensors of which some have no numbers."""
    if func in _DECIDED:
        return _DECIDED[func](*args, **kwargs)
    if func in _INDEXING:
        return func(*args, **kwargs)
    if func is _aten._to_copy.default and args[0].is_meta and _changes_device_alone(args[0], kwargs):
        return args[0]  # where there are numbers they are on that device already
    if kwargs.get("device") is not None:  # on its way to a device it stays what it is
        kwargs["device"] = torch.device("meta")
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return func(*args, **kwargs)


def _changes_device_alone(tensor: Tensor, options: Mapping[str, Any]) -> bool:
    kept = (tensor.dtype, tensor.layout, torch.preserve_format)
    return all(
        options.get(name) in (None, of) for name, of in zip(("dtype", "layout", "memory_format"), kept, strict=True)
    )


def _in_turn(values: Tensor, k: int, dim: int = -1, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """`topk` where every choice comes up as often as any other."""
    assert dim in (-1, values.ndim - 1), "what is chosen among stands last"
    shape = (*values.shape[:-1], k)
    chosen = torch.arange(torch.Size(shape).numel()) % values.shape[-1]
    return values.new_empty(shape), chosen.view(shape)


def _sorted_already(values: Tensor, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    dim = named.get("dim", next((o for o in options if isinstance(o, int) and not isinstance(o, bool)), -1))
    shape = [1] * values.ndim
    shape[dim] = values.shape[dim]
    return torch.empty_like(values), torch.arange(values.shape[dim]).view(shape).expand(values.shape).contiguous()


def _grouped(rows: Tensor, matrices: Tensor, *_: Any, **__: Any) -> Tensor:
    """`grouped_mm` in any type; torch's own for the meta device knows bfloat16 alone."""
    return rows.new_empty(len(rows), matrices.shape[-1], device="meta")


_DECIDED: dict[Any, Callable[..., Any]] = {
    _aten._grouped_mm.default: _grouped,
    _aten.topk.default: _in_turn,
    _aten.sort.default: _sorted_already,
    _aten.sort.stable: _sorted_already,
    _aten.argsort.default: lambda *args, **kwargs: _sorted_already(*args, **kwargs)[1],
    _aten.argsort.stable: lambda *args, **kwargs: _sorted_already(*args, **kwargs)[1],
    _aten._local_scalar_dense.default: lambda value: True if value.dtype is torch.bool else 1,
}

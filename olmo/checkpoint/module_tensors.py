"""The named tensors of a module as a place to load into: compare first, then put one tensor after another.

Used by every reader of weights. Knows tied weights (one tensor under several names) and modules on the meta device,
whose tensors are made here; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from olmo.exceptions import OLMoCheckpointError

Shape = tuple[int, ...]

Device = torch.device | str | Callable[[str], torch.device | str] | None
"""Where tensors are made: one device, or that of each by its name; None is the CPU."""

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


def plain_name(name: str) -> str:
    """The name of a tensor without what `torch.compile`, activation checkpointing and FSDP1 put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def device_for(name: str, device: Device) -> torch.device | str:
    """The device of the tensor called `name`."""
    return device(name) if callable(device) else device or "cpu"


@dataclass(frozen=True)
class LoadReport:
    """What did not fit between a checkpoint and a module.

    Attributes:
        missing: names the module has and the checkpoint lacks; they keep their values.
        unexpected: names in the checkpoint that the module has no place for.
        mismatched: (name, shape in the checkpoint, shape in the module); they keep their values.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()

    def __bool__(self) -> bool:
        """True where something did not fit."""
        return bool(self.missing or self.unexpected or self.mismatched)

    def fitting(self, names: Iterable[str]) -> set[str]:
        """Those of the names in the checkpoint that have a place of their shape."""
        return set(names) - {name for name, _, _ in self.mismatched} - set(self.unexpected)

    def describe(self) -> str:
        """Every name, one a line."""
        lines = [f"missing from the checkpoint: {name}" for name in self.missing]
        lines += [f"unexpected in the checkpoint: {name}" for name in self.unexpected]
        lines += [
            f"shape differs: {name} is {list(found)} in the checkpoint and {list(wanted)} in the model"
            for name, found, wanted in self.mismatched
        ]
        return "\n".join(lines)

    def require_clean(self, path: object) -> None:
        """Raise OLMoCheckpointError, listing every name, where something did not fit."""
        if self:
            raise OLMoCheckpointError(
                f"the weights in {path} do not fit the model; nothing was loaded. Check that the configuration belongs "
                f"to them, or use strict=False to load the rest:\n{self.describe()}"
            )


@dataclass(frozen=True)
class WideTensor:
    """A tensor that a module keeps in another form than it takes it in: one that is quantised as it is read, say.

    Attributes:
        shape: of what is taken.
        replaces: names of the tensors of the module that are made of it.
        take: is called with it, once it is read; on the CPU, in the data type of the file.
    """

    shape: Shape
    replaces: tuple[str, ...]
    take: Callable[[Tensor], None]


class ModuleTensors:
    """Parameters and saved buffers of a module by name.

    Args:
        module: module to read from or load into; parts of it or all of it may be on the meta device.
        wide: tensors to load that stand for others of the module, by their own name.
    """

    def __init__(self, module: nn.Module, wide: Mapping[str, WideTensor] | None = None) -> None:
        self._module = module
        self._wide = dict(wide or {})
        self._read: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}
        self._first_name: dict[str, str] = {}
        self._path: dict[str, str] = {}
        first_of: dict[int, str] = {}
        for path, tensor in module.state_dict(keep_vars=True).items():
            assert isinstance(tensor, Tensor), f"{path} of the state dict is no tensor"
            name = plain_name(path)
            self._path[name] = path
            self._first_name[name] = first_of.setdefault(id(tensor), name)
            if self._first_name[name] == name:
                self._tensors[name] = tensor
        for replaced in (name for tensor in self._wide.values() for name in tensor.replaces):
            self._tensors.pop(replaced)
            self._first_name.pop(replaced)

    def tensors(self) -> dict[str, Tensor]:
        """Each tensor once, detached, under its first name."""
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def canonical(self, name: str) -> str | None:
        """First name of the tensor called `name`; None where the module has no such tensor."""
        return self._first_name.get(name)

    def compare(self, shapes: Mapping[str, Shape]) -> LoadReport:
        """What does not fit if tensors of these names and shapes are loaded."""
        places = {name: tuple(self._tensors[first].shape) for name, first in self._first_name.items()}
        places |= {name: tensor.shape for name, tensor in self._wide.items()}
        covered = {self._first_name.get(name, name) for name in shapes if name in places}
        mismatched = [
            (name, shape, places[name])
            for name, shape in shapes.items()
            if name in places and tuple(shape) != places[name]
        ]
        return LoadReport(
            missing=tuple(name for name in (*self._tensors, *self._wide) if name not in covered),
            unexpected=tuple(sorted(name for name in shapes if name not in places)),
            mismatched=tuple(sorted(mismatched)),
        )

    def place(self, name: str, saved_dtype: torch.dtype, dtype: torch.dtype | None, device: Device) -> Tensor:
        """The tensor to write new values of `name` into; one on the meta device is made here.

        Args:
            name: any name of the tensor.
            saved_dtype: data type in the file.
            dtype: for tensors on the meta device: data type of floating point ones, None for `saved_dtype`.
            device: for tensors on the meta device: where to make them, None for the CPU.
        """
        if name in self._wide:
            self._read[name] = torch.empty(self._wide[name].shape, dtype=saved_dtype)
            return self._read[name]
        first = self._first_name[name]
        tensor = self._tensors[first]
        if tensor.is_meta:
            if isinstance(tensor, DTensor):
                raise OLMoCheckpointError(
                    f"{name} is split over processes and has no memory yet; call module.to_empty(device=...) before "
                    "loading"
                )
            wanted = dtype if dtype is not None and saved_dtype.is_floating_point else saved_dtype
            made = torch.empty(tensor.shape, dtype=wanted, device=device_for(name, device))
            tensor = self._replace(first, made)
        return tensor.detach()

    def finish(self) -> None:
        """Hand on the wide tensors that were read since the last call, and forget them."""
        while self._read:
            name, tensor = self._read.popitem()
            self._wide[name].take(tensor)

    def require_real(self, path: object) -> None:
        """Raise OLMoCheckpointError where a tensor is still on the meta device after loading."""
        empty = [name for name, tensor in self._tensors.items() if tensor.is_meta]
        if empty:
            raise OLMoCheckpointError(
                f"{path} has no values for {', '.join(empty)}, and the model was built without any; build it with "
                "random weights before loading a part of them"
            )
        hidden = [name for name, buffer in self._module.named_buffers() if buffer.is_meta]
        assert not hidden, f"buffers that are not saved must be made on a real device: {hidden}"

    def _replace(self, first: str, made: Tensor) -> Tensor:
        """Put a new tensor under all names of an old one."""
        old = self._tensors[first]
        if isinstance(old, nn.Parameter):
            made = nn.Parameter(made, requires_grad=old.requires_grad)
        for name, owner in self._first_name.items():
            if owner == first:
                parent, _, leaf = self._path[name].rpartition(".")
                setattr(self._module.get_submodule(parent), leaf, made)
        self._tensors[first] = made
        return made


def own_memory(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous and sharing memory with no other, as safetensors wants it."""
    tensor = tensor.cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor

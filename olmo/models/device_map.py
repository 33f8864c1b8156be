"""A model over several devices: which of its layers lie where, as they are read, and how a pass goes through them.

The main device has the embeddings, the picture encoder and what a variant adds. The blocks of the language model and
its head follow each other over the devices, so few states have to travel. What no device has room for is kept in the
memory of the machine, or on disk, and brought to a device for the time of its use; accelerate does that.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from olmo.checkpoint.module_tensors import WideTensor
from olmo.exceptions import OLMoConfigurationError
from olmo.nn.attention import AttentionContext
from olmo.nn.llm import Llm, LlmOutput

DISK = "disk"
AUTO = "auto"

_BLOCK_CLASS = "TransformerBlock"


@dataclass(frozen=True)
class Room:
    """What a person says about devices.

    Attributes:
        device_map: `auto`, or the device of each part by the beginning of its name: `cuda:0`, 0, `cpu`, `disk`.
        max_memory: for `auto`, the most bytes of each device (`{0: "20GiB", "cpu": "60GiB"}`); None: what is free.
        offload_folder: where parts lie that are on disk.
    """

    device_map: str | Mapping[str, int | str]
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | Path | None = None

    @property
    def kind(self) -> str:
        """What the layers are computed on: `cuda` where a GPU is meant, else `cpu`."""
        if isinstance(self.device_map, str):
            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cpu" if set(self.device_map.values()) <= {"cpu", DISK} else "cuda"


class Places:
    """Where each part of a model lies.

    Args:
        model: on the meta device.
        room: what is wanted.
        dtype: type that floating point weights will have; None keeps that of the model.

    Attributes:
        device_map: device by name, of each part that is moved as a whole.
        main: device that the others follow; inputs and logits are there.

    Raises:
        OLMoConfigurationError: accelerate is missing, a device is unknown, a part has no place, parts that belong
            together are apart, or there is no room.
    """

    def __init__(self, model: nn.Module, room: Room, dtype: torch.dtype | None) -> None:
        self._accelerate = _accelerate()
        fixed, movable = parts_of(model)
        if isinstance(room.device_map, str):
            if room.device_map != AUTO:
                raise OLMoConfigurationError(f"{room.device_map!r} is not 'auto' or a map of names", "device_map")
            budgets = self._accelerate.utils.get_max_memory(None if room.max_memory is None else dict(room.max_memory))
            sizes = {name: _bytes(model.get_submodule(name), dtype) for name in (*fixed, *movable)}
            self.device_map = spread(fixed, movable, sizes, budgets)
        else:
            _check_names(room.device_map, (*fixed, *movable))
            self.device_map = {name: _named(_lookup(room.device_map, name)) for name in (*fixed, *movable)}
        devices = {self.device_map[name] for name in fixed}
        if len(devices) > 1 or DISK in devices:
            raise OLMoConfigurationError(
                f"{', '.join(fixed)} belong on one device that computes, got {', '.join(sorted(devices))}", "device_map"
            )
        self.main = torch.device(devices.pop())
        self._folder = None if room.offload_folder is None else Path(room.offload_folder)
        self._index: dict[str, Any] = {}
        if DISK in self.device_map.values():
            if self._folder is None:
                parts = [name for name, device in self.device_map.items() if device == DISK]
                raise OLMoConfigurationError(
                    f"is missing: {len(parts)} parts go to disk, {parts[0]} the first of them; say in which folder",
                    "offload_folder",
                )
            self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_offloaded(self) -> bool:
        """Whether some weights are not where they are used."""
        held = set(self.device_map.values())
        return DISK in held or ("cpu" in held and self.main.type != "cpu")

    def device_of(self, name: str) -> torch.device:
        """Where the tensor of this name is put when it is read; those on disk come by way of the CPU."""
        device = _lookup(self.device_map, name)
        return torch.device("cpu" if device == DISK else device)

    def to_disk(self, model: nn.Module, dtype: torch.dtype | None) -> dict[str, WideTensor]:
        """The weights that are written to disk as they are read, by name; the model never has them in memory."""

        def write(name: str, tensor: Tensor) -> None:
            tensor = tensor if dtype is None else tensor.to(dtype)
            self._accelerate.utils.offload_weight(tensor, name, str(self._folder), self._index)
            parent, _, leaf = name.rpartition(".")  # what stays behind says of which type it is
            setattr(model.get_submodule(parent), leaf, nn.Parameter(tensor.to("meta"), requires_grad=False))

        return {
            name: WideTensor(tuple(tensor.shape), (name,), partial(write, name))
            for name, tensor in model.named_parameters()
            if _lookup(self.device_map, name) == DISK
        }

    def connect(self, model: nn.Module) -> None:
        """Let passes go through the devices, once all weights are in their places."""
        llm = _llm_of(model)
        llm.layer_devices = [self._computing(f"llm.blocks.{number}") for number in range(len(llm.blocks))]
        for block, device in zip(llm.blocks, llm.layer_devices, strict=True):
            block.register_forward_pre_hook(_bring_to(device))
        llm.register_forward_hook(_bring_back)
        if llm.lm_head is not None:
            llm.lm_head.register_forward_hook(lambda _, args, logits: logits.to(args[0].device))
        if self._index:
            self._accelerate.utils.save_offload_index(self._index, str(self._folder))
        if len(set(self.device_map.values())) > 1:
            self._accelerate.dispatch_model(
                model, dict(self.device_map), main_device=str(self.main), preload_module_classes=[_BLOCK_CLASS],
                offload_dir=None if self._folder is None else str(self._folder),
            )  # fmt: skip
        else:
            model.to(self.main)

    def _computing(self, name: str) -> torch.device:
        """Where a part is when it is used."""
        device = _lookup(self.device_map, name)
        return self.main if device in (DISK, "cpu") else torch.device(device)


def parts_of(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of what stays on the main device, and of what can be anywhere, in the order of a pass."""
    llm = _llm_of(model)
    movable = [f"llm.blocks.{number}" for number in range(len(llm.blocks))]
    movable += ["llm.ln_f", *(["llm.lm_head"] if llm.lm_head is not None else [])]
    others = [name for name, child in model.named_children() if name != "llm" and child.state_dict()]
    return ["llm.wte", *others], movable


def spread(
    fixed: Sequence[str], movable: Sequence[str], sizes: Mapping[str, int], budgets: Mapping[int | str, int]
) -> dict[str, str]:
    """Fill GPUs evenly, then the memory of the machine, then the disk.

    Args:
        fixed: parts of the first device.
        movable: the others, in the order of a pass.
        sizes: bytes of each.
        budgets: bytes of each device; a number is a GPU.

    Raises:
        OLMoConfigurationError: the first device has no room for `fixed`.
    """
    gpus = [key for key in budgets if isinstance(key, int) and budgets[key] > 0]
    devices: list[int | str] = [*gpus, "cpu"]
    first = sum(sizes[name] for name in fixed)
    if budgets.get(devices[0], 0) < first:
        raise OLMoConfigurationError(
            f"{', '.join(fixed)} take {first:,} bytes on one device, and {_named(devices[0])} has "
            f"{budgets.get(devices[0], 0):,}",
            "max_memory",
        )
    found = {name: _named(devices[0]) for name in fixed}
    even = -(-(first + sum(sizes[name] for name in movable)) // max(len(gpus), 1))
    place, used = 0, first
    for name in movable:
        # A GPU that has its part hands over to the next; the last one, the machine and the disk take what is left.
        while place < len(devices) and (
            used + sizes[name] > budgets.get(devices[place], 0) or (place + 1 < len(gpus) and used >= even)
        ):
            place, used = place + 1, 0
        found[name] = DISK if place == len(devices) else _named(devices[place])
        used += sizes[name]
    return found


def _accelerate() -> Any:
    try:
        return importlib.import_module("accelerate")
    except ModuleNotFoundError as error:
        raise OLMoConfigurationError(f"needs {error.name}: pip install 'molmo[offload]'", "device_map") from None


def _llm_of(model: nn.Module) -> Llm:
    llm = model.get_submodule("llm")
    assert isinstance(llm, Llm), "every model of the family has one"
    return llm


def _check_names(device_map: Mapping[str, int | str], parts: Sequence[str]) -> None:
    """Refuse names that mean nothing, and those of something within a part."""
    for key in device_map:
        if key and not any(part == key or part.startswith(f"{key}.") for part in parts):
            raise OLMoConfigurationError(
                f"{key!r} names no part that can be placed; there are {', '.join(parts[:3])} and so on, and beginnings "
                "of them; '' stands for all that is not named",
                "device_map",
            )


def _lookup(device_map: Mapping[str, Any], name: str) -> Any:
    """Device of the longest beginning of `name` that the map has."""
    for key in sorted(device_map, key=len, reverse=True):
        if key == "" or name == key or name.startswith(f"{key}."):
            return device_map[key]
    raise OLMoConfigurationError(f"says nothing about {name}; '' stands for all that is not named", "device_map")


def _named(device: object) -> str:
    if device == DISK:
        return DISK
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(str(device))
    except RuntimeError:
        raise OLMoConfigurationError(
            f"{device!r} is no device; use a number, cuda:0, cpu or disk", "device_map"
        ) from None
    return "cuda:0" if str(found) == "cuda" else str(found)


def _bytes(module: nn.Module, dtype: torch.dtype | None) -> int:
    """Bytes of a module's weights once floating point ones are `dtype`."""
    tensors = module.state_dict(keep_vars=True).values()
    return sum(t.numel() * (dtype if dtype and t.is_floating_point() else t.dtype).itemsize for t in tensors)


def _bring_to(device: torch.device) -> Any:
    """A forward pre-hook of a block: its inputs, and what all blocks share, on its device."""

    def bring(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, context, *others = args
        assert isinstance(context, AttentionContext), "a block is called with it"
        return x.to(device), context.on(device), *(None if o is None else o.to(device) for o in others)

    return bring


def _bring_back(_: nn.Module, args: tuple[Any, ...], out: LlmOutput) -> LlmOutput:
    """A forward hook of the language model: what it gives is where it was given its input."""
    device = args[0].device

    def back(tensors: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        return None if tensors is None else tuple(t.to(device) for t in tensors)

    return replace(
        out, hidden=out.hidden.to(device), hidden_states=back(out.hidden_states), attentions=back(out.attentions)
    )

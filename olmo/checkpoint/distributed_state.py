"""The named tensors of a module and of its optimizer, however they are wrapped or split over processes.

Names are always those of the bare module: the same in one process, under `DistributedDataParallel`, `fully_shard`
(FSDP2), tensor parallel, FSDP1, `torch.compile` and activation checkpointing. So a state written under one of them is
read under any other. Moments of the optimizer are called `<name of the parameter>/<key>`, for example
`head.weight/exp_avg`; single numbers, such as the step count, go to JSON, which holds them exactly.

What an optimizer holds for a parameter is kept for that parameter alone: a part of the model that has not begun to
learn has no moments, and has none after a resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    StateDictType,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from olmo.checkpoint.module_tensors import LoadReport, ModuleTensors, plain_name
from olmo.checkpoint.shards import read_shards, shapes_and_dtypes
from olmo.exceptions import OLMoCheckpointError

Scalars = dict[str, dict[str, Any]]
"""Numbers of the optimizer by parameter and key: {"head.weight": {"step": {"value": 20.0, "dtype": "float32"}}}."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel`."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def is_split(module: nn.Module) -> bool:
    """Whether a process holds only a part of some tensor of the module."""
    return is_fsdp1(module) or any(isinstance(p, DTensor) for p in (*module.parameters(), *module.buffers()))


def is_fsdp1(module: nn.Module) -> bool:
    """Whether `FullyShardedDataParallel` is somewhere in the module."""
    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules())


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Each parameter and saved buffer once, under its first name. Every process of a split module calls this."""
    module = unwrapped(module)
    if is_fsdp1(module):
        with _sharded_form(module):
            return {plain_name(name): tensor for name, tensor in module.state_dict().items()}
    return ModuleTensors(module).tensors()


def fill_module(module: nn.Module, folder: Path, strict: bool = True) -> LoadReport:
    """Load the weights in a folder into a module; with `strict`, names and shapes must all match.

    Raises:
        OLMoCheckpointError: a file is damaged, or `strict` and something does not fit; then nothing was changed.
    """
    module = unwrapped(module)
    shapes, _ = shapes_and_dtypes(folder)
    if not is_fsdp1(module):
        target = ModuleTensors(module)
        report = target.compare(shapes)
        if strict:
            report.require_clean(folder)
        fitting = {name: tensor for name, tensor in target.tensors().items() if name in report.fitting(shapes)}
        read_shards(fitting, folder)
        return report
    with _sharded_form(module):
        state = module.state_dict()
        names = {plain_name(name): name for name in state}
        report = LoadReport(
            missing=tuple(sorted(names.keys() - shapes.keys())),
            unexpected=tuple(sorted(shapes.keys() - names.keys())),
            mismatched=tuple(
                (name, shape, tuple(state[names[name]].size()))
                for name, shape in shapes.items()
                if name in names and tuple(state[names[name]].size()) != shape
            ),
        )
        if strict:
            report.require_clean(folder)
        wanted = {name: state[names[name]] for name in report.fitting(shapes)}
        read_shards(wanted, folder)
        module.load_state_dict({**state, **{names[name]: tensor for name, tensor in wanted.items()}})
    return report


def optimizer_state(module: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], Scalars]:
    """What an optimizer remembers, as tensors and as numbers. Every process of a split module calls this."""
    tensors: dict[str, Tensor] = {}
    scalars: Scalars = {}
    for name, entries in _remembered(unwrapped(module), optimizer):
        for key, value in entries.items():
            if isinstance(value, Tensor) and (value.ndim > 0 or isinstance(value, ShardedTensor)):
                tensors[f"{name}/{key}"] = value.detach()
            elif isinstance(value, Tensor):
                number = {"value": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
                scalars.setdefault(name, {})[key] = number
            else:
                scalars.setdefault(name, {})[key] = {"value": value}
    return tensors, scalars


def fill_optimizer(module: nn.Module, optimizer: Optimizer, folder: Path, scalars: Mapping[str, Any]) -> None:
    """Give an optimizer the memory that was saved; what it remembered before is gone.

    Args:
        module: the module that it trains, wrapped and split as it will be trained.
        optimizer: the optimizer.
        folder: folder with the tensors; it may be missing where there were none.
        scalars: the numbers.

    Raises:
        OLMoCheckpointError: a file is damaged, or something belongs to no parameter of the module.
    """
    module = unwrapped(module)
    shapes, dtypes = shapes_and_dtypes(folder)
    parameters = _parameters(module)
    names = {name.rpartition("/")[0] for name in shapes} | set(scalars)
    if strangers := sorted(names - parameters.keys()):
        raise OLMoCheckpointError(
            f"the optimizer of the checkpoint has a memory of {', '.join(strangers[:5])}, which the module lacks; "
            "the checkpoint belongs to another model"
        )
    if is_fsdp1(module):
        _fill_fsdp1(module, optimizer, folder, scalars, shapes)
        return
    made = {name: _room(name, parameters, shape, dtypes[name]) for name, shape in shapes.items()}
    read_shards(dict(made), folder)
    optimizer.state.clear()
    on_device = {p for g in optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]}
    for name in sorted(names):
        parameter = parameters[name]
        entries: dict[str, Any] = {}
        for key, number in scalars.get(name, {}).items():
            stays = key == "step" and parameter not in on_device
            entries[key] = _number(number, torch.device("cpu") if stays else parameter.device)
        entries |= {key.rpartition("/")[2]: t for key, t in made.items() if key.rpartition("/")[0] == name}
        optimizer.state[parameter] = entries


def _remembered(module: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name of the parameter, its entries in the optimizer), in the order of the module."""
    if is_fsdp1(module):
        with _sharded_form(module):
            whole = FullyShardedDataParallel.optim_state_dict(module, optimizer)
        yield from ((plain_name(name), entries) for name, entries in whole["state"].items())
        return
    for name, parameter in _parameters(module).items():
        if optimizer.state.get(parameter):
            yield name, optimizer.state[parameter]


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {plain_name(name): parameter for name, parameter in module.named_parameters()}


def _room(name: str, parameters: Mapping[str, nn.Parameter], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor for a saved one, split over processes as its parameter is."""
    parameter = parameters[name.rpartition("/")[0]].detach()
    if tuple(parameter.shape) == shape:
        return torch.zeros_like(parameter, dtype=dtype)
    if isinstance(parameter, DTensor):
        raise OLMoCheckpointError(
            f"{name} of the checkpoint has shape {list(shape)} and the parameter {list(parameter.shape)}; they must be "
            "equal where parameters are split over processes"
        )
    return torch.zeros(shape, dtype=dtype, device=parameter.device)


def _number(number: Mapping[str, Any], device: torch.device) -> Any:
    if "dtype" not in number:
        return number["value"]
    return torch.tensor(number["value"], dtype=getattr(torch, number["dtype"]), device=device)


def _fill_fsdp1(
    module: nn.Module, optimizer: Optimizer, folder: Path, scalars: Mapping[str, Any], shapes: Mapping[str, Any]
) -> None:
    with _sharded_form(module):
        like = {plain_name(name): tensor for name, tensor in module.state_dict().items()}
        real_name = {plain_name(name): name for name in module.state_dict()}
        made = {name: _sharded_room(like[name.rpartition("/")[0]]) for name in shapes}
        read_shards(made, folder)
        state: dict[str, dict[str, Any]] = {}
        for name, numbers in scalars.items():
            entries = {key: _number(number, torch.device("cpu")) for key, number in numbers.items()}
            state.setdefault(real_name[name], {}).update(entries)
        for name, tensor in made.items():
            owner, _, key = name.rpartition("/")
            state.setdefault(real_name[owner], {})[key] = tensor
        groups = FullyShardedDataParallel.optim_state_dict(module, optimizer)["param_groups"]
        whole = {"state": state, "param_groups": groups}
        optimizer.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(module, optimizer, whole))


def _sharded_room(like: Tensor) -> Tensor:
    return torch.zeros_like(like) if isinstance(like, DTensor) else like.clone()


@contextmanager
def _sharded_form(module: nn.Module) -> Iterator[None]:
    """Let FSDP1 hand out and take tensors split over processes, without its many notes that FSDP2 is newer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed\.fsdp")
        warnings.filterwarnings("ignore", message="Please use DTensor instead")
        with FullyShardedDataParallel.state_dict_type(
            module, StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig(), ShardedOptimStateDictConfig()
        ):
            yield

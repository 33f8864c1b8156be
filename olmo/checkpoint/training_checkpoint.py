"""What one checkpoint of a training run holds, apart from where it stands: taken from a run, written, read back.

    model/         weights; the folder loads like any native checkpoint
    optimizer/     moments of the optimizer, `<parameter>/<key>`
    extra/         further tensors of the trainer, such as the average of the weights
    generators/    state of the random generators, a file for each process
    train.json     step, the trainer's own values, single numbers of the optimizer, the recipe

Tensors are safetensors, numbers are JSON; there is no pickle. Everything is restored bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.optim import Optimizer

from olmo.checkpoint.distributed_state import Scalars, fill_module, fill_optimizer, module_state, optimizer_state
from olmo.checkpoint.native import SHARDS_FOLDER
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.shards import read_shards, shapes_and_dtypes, write_shards
from olmo.exceptions import OLMoCheckpointError

OPTIMIZER_FOLDER, EXTRA_FOLDER, GENERATORS_FOLDER = "optimizer", "extra", "generators"
TRAIN_FILE = "train.json"


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one step.

    Attributes:
        tensors: by folder and name.
        generators: state of the generators of this process.
        values: content of `train.json`.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    generators: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @classmethod
    def take(
        cls,
        module: nn.Module,
        optimizer: Optimizer,
        extra_tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        is_copied: bool,
    ) -> Snapshot:
        """Look at a run. Every process of it calls this.

        Args:
            module: everything that is trained.
            optimizer: its optimizer.
            extra_tensors: further tensors by name.
            values: plain JSON values.
            is_copied: copy tensors to the CPU, so that training may go on while they are written.
        """
        moments, scalars = optimizer_state(module, optimizer)
        tensors = {
            SHARDS_FOLDER: module_state(module),
            OPTIMIZER_FOLDER: moments,
            EXTRA_FOLDER: {name: tensor.detach() for name, tensor in extra_tensors.items()},
        }
        if is_copied:
            tensors = {folder: {name: _copied(t) for name, t in named.items()} for folder, named in tensors.items()}
        values = json.loads(json.dumps({**values, "optimizer": scalars}))
        return cls(tensors, generator_states(), values)

    def write_shared(self, folder: Path, processes: Processes) -> None:
        """Write the tensors, with the other processes."""
        with processes.together("making folders"):
            for name in (*self.tensors, GENERATORS_FOLDER):
                (folder / name).mkdir(exist_ok=True)
        for name, tensors in self.tensors.items():
            write_shards(tensors, folder / name, processes)

    def write_own(self, folder: Path, processes: Processes, write_extra: Callable[[Path], None] | None) -> None:
        """Write what belongs to this process alone, and in the main process what there is once."""
        (folder / GENERATORS_FOLDER / _generator_file(processes.rank)).write_bytes(save(dict(self.generators)))
        if processes.is_main:
            (folder / TRAIN_FILE).write_text(json.dumps(self.values, indent=1), encoding="utf-8")
            if write_extra is not None:
                write_extra(folder)


def read_values(folder: Path) -> dict[str, Any]:
    """The content of `train.json`.

    Raises:
        OLMoCheckpointError: the folder has none, so it is not from a training run.
    """
    try:
        return json.loads((folder / TRAIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OLMoCheckpointError(f"cannot resume from {folder}: {error}") from None


def restore(
    folder: Path, module: nn.Module, optimizer: Optimizer, extra_tensors: Mapping[str, Tensor], rank: int
) -> None:
    """Put everything back as it was. Every process calls this.

    Args:
        folder: a checkpoint on this machine.
        module: everything that is trained, wrapped and split as it will be trained.
        optimizer: its optimizer.
        extra_tensors: tensors to fill, by name.
        rank: number of this process. One that did not exist when the checkpoint was written keeps its generators.

    Raises:
        OLMoCheckpointError: the checkpoint belongs to another model, or lacks an extra tensor.
    """
    scalars: Scalars = read_values(folder)["optimizer"]
    fill_module(module, folder / SHARDS_FOLDER)
    fill_optimizer(module, optimizer, folder / OPTIMIZER_FOLDER, scalars)
    _fill_extra(extra_tensors, folder / EXTRA_FOLDER)
    generators = folder / GENERATORS_FOLDER / _generator_file(rank)
    if generators.is_file():
        restore_generators(load_file(generators))


def generator_states() -> dict[str, Tensor]:
    """States of PyTorch's own generators: the CPU's, and that of the GPU in use if there is one."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Let the generators continue where they were; one that is not here is passed over."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _generator_file(rank: int) -> str:
    return f"process-{rank + 1:05d}.safetensors"


def _fill_extra(wanted: Mapping[str, Tensor], folder: Path) -> None:
    shapes, _ = shapes_and_dtypes(folder)
    unlike = [name for name, tensor in wanted.items() if shapes.get(name) != tuple(tensor.shape)]
    if unlike or len(shapes) != len(wanted):
        names = ", ".join(sorted({*unlike, *(shapes.keys() - wanted.keys())})[:5])
        raise OLMoCheckpointError(
            f"the extra tensors of {folder.parent} are not those of this run ({names}): an average of weights was "
            "switched on or off, or belongs to another model"
        )
    read_shards({name: tensor.detach() for name, tensor in wanted.items()}, folder)


def _copied(tensor: Tensor) -> Tensor:
    # FSDP1 hands out copies already.
    return tensor.cpu() if isinstance(tensor, ShardedTensor) else tensor.to("cpu", copy=True)

"""Our own checkpoints: a folder of safetensors, the configuration and a marker written last.

    config.yaml, tokenizer.json, ...   handed in by the caller
    model.safetensors                  all weights in one file (`sharded=False`), or
    model/shard-*.safetensors          the weights in several files (`sharded=True`, see `shards`)
    COMPLETE                           JSON: every file with its size and checksum

The same reader takes both forms. A module whose tensors are split over processes is written and read by all of them:
every process makes the same call. Any other module belongs to the process that calls, which waits for no other.

Takes a module, knows no model. Names in the files are those of the bare module's state dict, whatever wraps it.
Training state beside the weights belongs in a subfolder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.tensor import DTensor

from olmo.checkpoint.distributed_state import fill_module, is_fsdp1, is_split, module_state, unwrapped
from olmo.checkpoint.manifest import COMPLETE, Manifest
from olmo.checkpoint.module_tensors import Device, LoadReport, ModuleTensors, Shape, WideTensor, own_memory
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.shards import MAX_SHARD_BYTES, read_shards, shapes_and_dtypes, write_shards
from olmo.checkpoint.store import FolderStore, write_checkpoint
from olmo.checkpoint.tensor_source import WEIGHTS_FILE, open_safetensors
from olmo.exceptions import OLMoCheckpointError
from olmo.io import previous_folder

SHARDS_FOLDER = "model"

_READ_PARTS = 16  # loading reads about this part of the weights at a time, which bounds the memory on top of the model


def save_checkpoint(
    module: nn.Module,
    path: str | Path,
    sharded: bool = True,
    write_extra: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint folder; a checkpoint already at `path` stays until the new one is complete.

    Args:
        module: module whose parameters and saved buffers are written, each in its own data type.
        path: folder to write; where the module is split over processes, the same for all of them.
        sharded: several files, to which many processes write their parts, or one.
        write_extra: is called with the folder to add further files to it, such as `config.yaml`; only in the first of
            several processes.
        max_shard_bytes: size at which a new shard begins.

    Raises:
        OLMoCheckpointError: `path` holds something that is not a checkpoint of this kind, or the disk is full.
    """
    target = Path(path).absolute()
    processes = Processes.join() if is_split(module) else Processes()
    try:
        with processes.together("looking at the old checkpoint"):
            if processes.is_main:
                _refuse_foreign(target)
        tensors = module_state(module)
        # Files of the whole are written by the first process alone; all must take part in putting tensors together.
        whole = {} if sharded else {n: t for n, t in _put_together(tensors) if processes.is_main}

        def write_shared(folder: Path) -> None:
            if sharded:
                with processes.together("making a folder"):
                    (folder / SHARDS_FOLDER).mkdir(exist_ok=True)
                write_shards(tensors, folder / SHARDS_FOLDER, processes, max_shard_bytes)

        def write_own(folder: Path) -> None:
            if not sharded and processes.is_main:
                save_file(whole, folder / WEIGHTS_FILE, metadata={"format": "pt"})
            if write_extra is not None and processes.is_main:
                write_extra(folder)

        write_checkpoint(FolderStore(target.parent), target.name, processes, write_shared, write_own)
    finally:
        processes.leave()


def load_checkpoint(
    module: nn.Module,
    path: str | Path,
    strict: bool = True,
    dtype: torch.dtype | None = None,
    device: Device = None,
    wide: Mapping[str, WideTensor] | None = None,
    passed_over: Sequence[str] = (),
) -> LoadReport:
    """Load a checkpoint folder of either form into a module, a few tensors at a time.

    Names and shapes are compared before anything is changed.

    Args:
        module: module to load into. Its tensors keep their data type and device; those on the meta device are made.
        path: folder that `save_checkpoint` wrote.
        strict: raise where a name or a shape does not fit; otherwise load what fits and report the rest.
        dtype: data type of floating point tensors that are on the meta device; None keeps the saved one.
        device: device of tensors that are on the meta device, or of each by its name; None is the CPU.
        wide: saved tensors that the module keeps in another form, by name.
        passed_over: beginnings of names of saved tensors to leave where they are.

    Returns:
        What did not fit; empty (false) where all did.

    Raises:
        OLMoCheckpointError: the folder is missing or incomplete, a file is damaged, or `strict` and something does not
            fit: then every missing, unexpected and mismatched name is listed, and the module is unchanged.
    """
    weights = _checked_weights_folder(Path(path))
    if is_fsdp1(module):
        return fill_module(module, weights, strict)
    shapes, dtypes = shapes_and_dtypes(weights)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(tuple(passed_over))}
    target = ModuleTensors(unwrapped(module), wide)
    report = target.compare(shapes)
    if strict:
        report.require_clean(path)
    fits = report.fitting(shapes)
    for names in _parts({name: shape for name, shape in shapes.items() if name in fits}, dtypes):
        read_shards({name: target.place(name, dtypes[name], dtype, device) for name in names}, weights)
        target.finish()
    target.require_real(path)
    return report


def _put_together(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors on the CPU, one after another; with parts in several processes, each must take all of them."""
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            yield name, own_memory(tensor.full_tensor())
        elif isinstance(tensor, ShardedTensor):
            room = torch.empty(tensor.size(), dtype=tensor.dtype) if dist.get_rank() == 0 else None
            tensor.gather(dst=0, out=room)
            yield name, room if room is not None else torch.empty(0)
        else:
            yield name, own_memory(tensor)


def _checked_weights_folder(folder: Path) -> Path:
    """The folder that holds the weight files, once the marker says that all files are there."""
    if not folder.is_dir():
        kept = previous_folder(folder.absolute())
        hint = f"; an interrupted save left the old one at {kept}, rename it" if kept.is_dir() else ""
        raise OLMoCheckpointError(f"no such checkpoint folder: {folder}{hint}")
    manifest = Manifest.read(folder)
    if manifest is None:
        raise OLMoCheckpointError(
            f"{folder} has no {COMPLETE} file, so it is not a whole checkpoint of this library: copy it again, or, if "
            "it is a published model, load it with from_pretrained"
        )
    for name, size in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise OLMoCheckpointError(f"{file} is missing from the checkpoint; copy it again")
        # Text files may be edited by hand; weights may not.
        if file.suffix == ".safetensors" and file.stat().st_size != size:
            raise OLMoCheckpointError(
                f"{file} has {file.stat().st_size} bytes instead of {size}: it was cut or changed; copy it again"
            )
    weights = folder / SHARDS_FOLDER if (folder / SHARDS_FOLDER).is_dir() else folder
    found = sorted(weights.glob("*.safetensors"))
    if not found:
        raise OLMoCheckpointError(f"{folder} holds no weights; copy it again")
    for file in found:
        open_safetensors(file)
    return weights


def _refuse_foreign(folder: Path) -> None:
    """Raise rather than replace files that no save of ours has written."""
    if not folder.is_dir():
        return
    manifest = Manifest.read(folder) or Manifest()
    known = set(manifest.files) | {COMPLETE}
    foreign = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.relative_to(folder).as_posix() not in known]
    if foreign:
        names = ", ".join(p.relative_to(folder).as_posix() for p in foreign[:5])
        raise OLMoCheckpointError(
            f"{folder} holds {len(foreign)} file(s) that are not part of a checkpoint ({names}) and would be lost; "
            "choose another path or move them away"
        )


def _parts(shapes: Mapping[str, Shape], dtypes: Mapping[str, torch.dtype]) -> Iterator[list[str]]:
    """Names in groups of roughly equal size in bytes."""
    sizes = {name: torch.Size(shape).numel() * dtypes[name].itemsize for name, shape in shapes.items()}
    limit = sum(sizes.values()) // _READ_PARTS
    part: list[str] = []
    read = 0
    for name, size in sizes.items():
        part.append(name)
        read += size
        if read > limit:
            yield part
            part, read = [], 0
    if part:
        yield part

"""Named tensors to and from a folder of safetensors files that many processes write and read together.

The files are those of PyTorch's distributed checkpoint with its safetensors storage. It was chosen over shards with an
index of our own because every process of a sharded run writes its part of a tensor and any other number of processes
reads it back, while one process needs no process group for either; it holds no pickle (the default storage of the
distributed checkpoint does, in its metadata file).

A process writes `shard-<number>-model-<i>-of-<n>.safetensors`, its number counted from 1. Tensors may be plain (then
they are equal in all processes and one of them writes each), or split over processes (`DTensor`, `ShardedTensor`).
"""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from olmo.checkpoint.module_tensors import Shape
from olmo.checkpoint.processes import Processes
from olmo.exceptions import OLMoCheckpointError

MAX_SHARD_BYTES = 2 * 1024**3

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OWNER = re.compile(r"(?:shard|process)-(\d{5})[-.]")


def write_shards(
    tensors: Mapping[str, Tensor], folder: Path, processes: Processes, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors into an existing folder. Every process calls this with the same names.

    Args:
        tensors: by name.
        folder: an empty folder, the same for all processes or one of each.
        processes: who writes.
        max_shard_bytes: size at which a process begins a new file; about twice as much memory is taken on top.

    Raises:
        OLMoCheckpointError: a file cannot be written, in this process or another.
        OSError: the disk is full (ENOSPC).
    """
    if not tensors:
        return
    with _clear_errors(f"cannot write {folder}"):
        packed = {name: _packed(tensor) for name, tensor in tensors.items()}
        file_of = _files_by_size(packed, max_shard_bytes)
        writer = dcp.HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=file_of, save_distributed=True)
        dcp.save(packed, storage_writer=writer, process_group=processes.group, no_dist=processes.group is None)


def read_shards(wanted: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors with their values in a folder. Each process reads what it needs, and waits for no other.

    Args:
        wanted: tensors to fill, by name; the folder has all of these names.
        folder: folder of safetensors files.

    Raises:
        OLMoCheckpointError: a file is missing or damaged.
    """
    if not wanted:
        return
    with _clear_errors(f"cannot read {folder}"):
        dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)


def shapes_and_dtypes(folder: Path) -> tuple[dict[str, Shape], dict[str, torch.dtype]]:
    """Shape and data type of every tensor in a folder, in the order in which they are best read: file after file.

    A folder that is missing has none: where no tensor was written, a remote place has no folder either.

    Raises:
        OLMoCheckpointError: a file is damaged.
    """
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, torch.dtype] = {}
    if not folder.is_dir():
        return shapes, dtypes
    with _clear_errors(f"cannot read {folder}"):
        metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), f"{name} comes from a safetensors file, so it is a tensor"
        shapes[name], dtypes[name] = tuple(entry.size), entry.properties.dtype
    return shapes, dtypes


def files_of(rank: int, folder: Path) -> list[str]:
    """Files in a folder that a process has written, by relative name; the first has all without a number."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [name for name in names if _owner(name) == rank]


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error says that there is no room on a disk."""
    if isinstance(error, SafetensorError):
        return any(f"os error {number})" in str(error) for number in _NO_ROOM)
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _owner(name: str) -> int:
    found = _OWNER.match(name.rpartition("/")[2])
    return int(found.group(1)) - 1 if found else 0


def _files_by_size(tensors: Mapping[str, Tensor], max_bytes: int) -> dict[str, int]:
    """Number of the file, from 1, of each tensor."""
    file_of: dict[str, int] = {}
    file, size = 1, 0
    for name, tensor in tensors.items():
        nbytes = _bytes_here(tensor)
        if size and size + nbytes > max_bytes:
            file, size = file + 1, 0
        size += nbytes
        file_of[name] = file
    return file_of


def _bytes_here(tensor: Tensor) -> int:
    here = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return here.size().numel() * here.dtype.itemsize


def _packed(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, DTensor) or type(tensor) is not Tensor else tensor.contiguous()


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Our error instead of PyTorch's, which prints the traces of all processes; and no warnings about what is meant."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            warnings.filterwarnings("ignore", message="Please use DTensor instead")  # what FSDP1 hands out
            yield
    except CheckpointException as error:
        causes = [failure[0] for failure in error.failures.values()]
        if full := next((cause for cause in causes if is_full_disk(cause)), None):
            raise full from None
        raise OLMoCheckpointError(f"{what}: {' '.join(str(causes[0]).split())}") from causes[0]
    except (OSError, SafetensorError) as error:
        if is_full_disk(error):
            raise
        raise OLMoCheckpointError(f"{what}: {' '.join(str(error).split())}") from error

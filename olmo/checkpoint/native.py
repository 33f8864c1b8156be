"""Our own checkpoints: a folder of safetensors, the configuration and a marker written last.

    config.yaml, tokenizer.json, ...   handed in by the caller
    model.safetensors                  all weights in one file (`sharded=False`), or
    model/shard-*.safetensors          the weights in several files (`sharded=True`)
    COMPLETE                           JSON: every file with its size in bytes

The sharded form is PyTorch's distributed checkpoint with its safetensors storage. That was chosen over shards with an
index of our own because every process of a sharded run can write its part of a tensor and any other number of processes
can read it back, while one process needs no process group for either; it holds no pickle (the default storage of the
distributed checkpoint does, in its metadata file). The same reader takes the one-file form, so both load through one
path. What is here reads and writes with one process and calls no collective; the format is the one that many can share.

Takes a module, knows no model. Names in the files are those of the module's state dict. Training state beside the
weights belongs in a subfolder of its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from olmo.checkpoint.module_tensors import LoadReport, ModuleTensors, Shape, own_memory
from olmo.checkpoint.tensor_source import WEIGHTS_FILE, open_safetensors
from olmo.exceptions import OLMoCheckpointError
from olmo.io import atomic_folder, previous_folder

COMPLETE = "COMPLETE"
SHARDS_FOLDER = "model"
MAX_SHARD_BYTES = 2 * 1024**3

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
        path: folder to write.
        sharded: several files that many processes could write, or one.
        write_extra: is called with the folder to add further files to it, such as `config.yaml`.
        max_shard_bytes: size at which a new shard begins.

    Raises:
        OLMoCheckpointError: `path` holds something that is not a checkpoint of this kind.
    """
    _refuse_foreign(Path(path))
    with atomic_folder(path) as folder:
        tensors = ModuleTensors(module).tensors()
        if sharded:
            _write_shards(tensors, folder / SHARDS_FOLDER, max_shard_bytes)
        else:
            whole = {name: own_memory(tensor) for name, tensor in tensors.items()}
            save_file(whole, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        if write_extra is not None:
            write_extra(folder)
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        (folder / COMPLETE).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")


def load_checkpoint(
    module: nn.Module,
    path: str | Path,
    strict: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> LoadReport:
    """Load a checkpoint folder of either form into a module, a few tensors at a time.

    Names and shapes are compared before anything is changed.

    Args:
        module: module to load into. Its tensors keep their data type and device; those on the meta device are made.
        path: folder that `save_checkpoint` wrote.
        strict: raise where a name or a shape does not fit; otherwise load what fits and report the rest.
        dtype: data type of floating point tensors that are on the meta device; None keeps the saved one.
        device: device of tensors that are on the meta device; None is the CPU.

    Returns:
        What did not fit; empty (false) where all did.

    Raises:
        OLMoCheckpointError: the folder is missing or incomplete, a file is damaged, or `strict` and something does not
            fit: then every missing, unexpected and mismatched name is listed, and the module is unchanged.
    """
    weights = _checked_weights_folder(Path(path))
    shapes, dtypes = _shapes_and_dtypes(weights)
    target = ModuleTensors(module)
    report = target.compare(shapes)
    if strict:
        report.require_clean(path)
    misfits = {name for name, _, _ in report.mismatched} | set(report.unexpected)
    fitting = {name: shape for name, shape in shapes.items() if name not in misfits}
    for names in _parts(fitting, dtypes):
        wanted = {name: target.place(name, dtypes[name], dtype, device) for name in names}
        with _one_process_is_meant():
            dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(weights)), no_dist=True)
    target.require_real(path)
    return report


def _shapes_and_dtypes(weights: Path) -> tuple[dict[str, Shape], dict[str, torch.dtype]]:
    """Shape and data type of every tensor in a folder, in the order in which they are best read: file after file."""
    metadata = dcp.HuggingFaceStorageReader(str(weights)).read_metadata()
    shapes, dtypes = {}, {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), f"{name} comes from a safetensors file, so it is a tensor"
        shapes[name], dtypes[name] = tuple(entry.size), entry.properties.dtype
    return shapes, dtypes


def _write_shards(tensors: Mapping[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    shard_of: dict[str, int] = {}
    shard, size = 1, 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > max_shard_bytes:
            shard, size = shard + 1, 0
        size += tensor.nbytes
        shard_of[name] = shard
    folder.mkdir()
    writer = dcp.HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=shard_of, save_distributed=True)
    with _one_process_is_meant():
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        dcp.save(packed, storage_writer=writer, no_dist=True)


def _checked_weights_folder(folder: Path) -> Path:
    """The folder that holds the weight files, once the marker says that all files are there."""
    if not folder.is_dir():
        kept = previous_folder(folder.absolute())
        hint = f"; an interrupted save left the old one at {kept}, rename it" if kept.is_dir() else ""
        raise OLMoCheckpointError(f"no such checkpoint folder: {folder}{hint}")
    sizes = _marker(folder)
    if sizes is None:
        raise OLMoCheckpointError(
            f"{folder} has no {COMPLETE} file, so it is not a whole checkpoint of this library: copy it again, or, if "
            "it is a published model, load it with from_pretrained"
        )
    for name, size in sizes.items():
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


def _marker(folder: Path) -> dict[str, int] | None:
    """Sizes of all files of a checkpoint by name; None where there is no marker."""
    marker = folder / COMPLETE
    if not marker.is_file():
        return None
    try:
        return {str(name): int(size) for name, size in json.loads(marker.read_text(encoding="utf-8"))["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OLMoCheckpointError(f"{marker} cannot be read ({error}); copy the checkpoint again") from None


def _refuse_foreign(folder: Path) -> None:
    """Raise rather than replace files that no save of ours has written."""
    if not folder.is_dir():
        return
    known = set(_marker(folder) or ()) | {COMPLETE}
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


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    """Keep quiet the warning that a process without a group works alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield

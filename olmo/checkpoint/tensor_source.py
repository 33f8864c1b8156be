"""Where tensors are read from: by name, one at a time, with shapes known before anything is read.

`SafetensorsSource` reads a folder with one `model.safetensors`, or with shards and an index, as the hub stores models.
Reading maps the file into memory; the map is renewed from time to time, because pages once read count as memory of this
process until then. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from olmo.exceptions import OLMoCheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MAPPED_SHARE = 8  # the map of a file is renewed after this part of all weights was read from it


class TensorSource(Protocol):
    """Named tensors that can be looked at without being read.

    Attributes:
        location: where they are, for error messages.
    """

    location: str

    def names(self) -> list[str]:
        """Names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        ...

    def get(self, name: str) -> Tensor:
        """Read a tensor. It may be a view of a file: copy it before changing or keeping it."""
        ...


class DictSource:
    """Tensors already in memory (or mapped by whoever made the dict) as a source."""

    def __init__(self, tensors: Mapping[str, Tensor], location: str = "memory") -> None:
        self.location = location
        self._tensors = tensors

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def get(self, name: str) -> Tensor:
        """The tensor itself, not a copy."""
        return self._tensors[name]


class SafetensorsSource:
    """The weights in a folder: `model.safetensors`, or `model.safetensors.index.json` and the shards it names.

    Every file is opened once here, so a missing or cut file is found before a model is touched.

    Args:
        folder: folder on this machine.

    Raises:
        OLMoCheckpointError: no weights in the folder, a missing, cut or unreadable file, or an index that names a
            tensor its shard does not hold.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self.location = str(folder)
        self._file_of: dict[str, Path] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        if (self._folder / WEIGHTS_FILE).is_file():
            self._add_file(self._folder / WEIGHTS_FILE)
        elif (self._folder / INDEX_FILE).is_file():
            self._add_index(self._folder / INDEX_FILE)
        else:
            raise OLMoCheckpointError(_no_weights(self._folder))
        files = set(self._file_of.values())
        self._budget = max(sum(file.stat().st_size for file in files) // _MAPPED_SHARE, 1)
        self._open_file: Path | None = None
        self._handle: Any = None
        self._mapped_bytes = 0

    def names(self) -> list[str]:
        """Names of all tensors, file after file: the quickest order to read them in."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._shape_of[name]

    def get(self, name: str) -> Tensor:
        """Read a tensor; it is a view of the mapped file, so copy it before changing or keeping it."""
        file = self._file_of[name]
        if file != self._open_file or self._mapped_bytes > self._budget:
            self._handle, self._open_file, self._mapped_bytes = open_safetensors(file), file, 0
        tensor: Tensor = self._handle.get_tensor(name)
        self._mapped_bytes += tensor.nbytes
        return tensor

    def _add_file(self, file: Path, wanted: set[str] | None = None) -> None:
        handle = open_safetensors(file)
        found = set(handle.keys())
        if wanted is not None and (absent := sorted(wanted - found)):
            raise OLMoCheckpointError(
                f"{file} does not hold {', '.join(absent[:5])} ({len(absent)} of the tensors that {INDEX_FILE} places "
                "there); the files are of different versions, download the model again"
            )
        for name in sorted(found if wanted is None else wanted):
            self._file_of[name] = file
            self._shape_of[name] = tuple(handle.get_slice(name).get_shape())

    def _add_index(self, index: Path) -> None:
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names_of: dict[str, set[str]] = {}
            for name, file_name in weight_map.items():
                names_of.setdefault(str(file_name), set()).add(name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OLMoCheckpointError(f"{index} is not a safetensors index ({error}); download it again") from None
        for file_name in sorted(names_of):
            if Path(file_name).name != file_name:
                raise OLMoCheckpointError(f"{index} names a file outside its folder ({file_name!r}); do not use it")
            self._add_file(self._folder / file_name, names_of[file_name])


def open_safetensors(file: Path) -> Any:
    """Open a safetensors file for reading; its header is checked against its size.

    Raises:
        OLMoCheckpointError: the file is missing, cut or no safetensors file.
    """
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise OLMoCheckpointError(f"{file} is missing; download the model again or copy all of its files") from None
    except (SafetensorError, OSError) as error:
        raise OLMoCheckpointError(f"{file} is cut or damaged ({error}); download or copy it again") from None


def _no_weights(folder: Path) -> str:
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds weights only as pickles ({', '.join(pickles[:3])}), which can run code and are not "
            "opened; get the safetensors files, or turn an original release into a folder with `molmo convert`"
        )
    return f"{folder} holds no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE} is there; download the model again"

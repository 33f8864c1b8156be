"""Checkpoints behind an fsspec URL: an object store or another machine, where a folder cannot be renamed.

Each process writes its files to a folder of its own on this machine and copies them to the place. The marker is written
last, after all files are there with their right sizes, and stands for the rename: what has none is not a checkpoint.
For reading, one process on each machine fetches the files.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmo.checkpoint.manifest import COMPLETE, Manifest
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.store import CheckpointStore, FolderStore
from olmo.exceptions import OLMoCheckpointError


def is_url(place: str) -> bool:
    """Whether a place is an fsspec URL rather than a path on this machine."""
    return "://" in place


def open_store(place: str | Path, staging_folder: str | None = None) -> CheckpointStore:
    """The store at a path or an fsspec URL.

    Args:
        place: a folder, or a URL such as `s3://bucket/run`.
        staging_folder: folder on this machine that remote checkpoints pass through; None for the system's own.

    Raises:
        OLMoCheckpointError: fsspec or the package that speaks the protocol is not installed.
    """
    return RemoteStore(str(place), staging_folder) if is_url(str(place)) else FolderStore(place)


class RemoteStore:
    """Checkpoints as folders at an fsspec URL.

    Args:
        url: where the folders are.
        staging_folder: see `open_store`.
    """

    def __init__(self, url: str, staging_folder: str | None = None) -> None:
        self.location = url
        self._fs, self._root = _file_system(url)
        self._staging_folder = staging_folder
        self._working: dict[str, Path] = {}

    def names(self) -> list[str]:
        """Complete checkpoints, sorted."""
        return [name for name in self._folders() if self._fs.isfile(self._path(name, COMPLETE))]

    def working_folder(self, name: str, processes: Processes) -> Path:
        """A folder of this process alone, on this machine."""
        folder = self._temporary()
        self._working[name] = folder
        return folder

    def publish(self, name: str, manifest: Manifest, processes: Processes) -> None:
        """Copy the files, then write the marker."""
        folder = self._working[name]
        with processes.together(f"clearing {self.location}/{name}"):
            if processes.is_main:
                self.remove(name)
        with processes.together(f"copying {name} to {self.location}"):
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                self._put(path, name, path.relative_to(folder).as_posix())
        with processes.together(f"completing {name}"):
            if processes.is_main:
                self._fs.invalidate_cache()
                for file, size in manifest.files.items():
                    found = self._fs.size(self._path(name, file))
                    if found != size:
                        raise OLMoCheckpointError(f"{self.location}/{name}/{file} has {found} bytes instead of {size}")
                self._fs.pipe_file(self._path(name, COMPLETE), manifest.text().encode("utf-8"))
        self.discard(name, processes)

    def discard(self, name: str, processes: Processes) -> None:
        """Remove the working folder; files already copied are cleaned up by the next run."""
        if name in self._working:
            shutil.rmtree(self._working.pop(name), ignore_errors=True)

    def manifest(self, name: str) -> Manifest:
        """The marker of a complete checkpoint."""
        path = self._path(name, COMPLETE)
        return Manifest.parse(self._fs.cat_file(path).decode("utf-8"), f"{self.location}/{name}/{COMPLETE}")

    @contextmanager
    def fetched(self, name: str, processes: Processes) -> Iterator[Path]:
        """A copy on this machine that all its processes share, removed at the end."""
        hosts = processes.gather(socket.gethostname())
        is_fetching = hosts.index(hosts[processes.rank]) == processes.rank
        folder = self._temporary() if is_fetching else None
        try:
            with processes.together(f"fetching {self.location}/{name}"):
                if folder is not None:
                    for file in self.manifest(name).files:
                        (folder / file).parent.mkdir(parents=True, exist_ok=True)
                        self._fs.get_file(self._path(name, file), str(folder / file))
            folders = processes.gather(None if folder is None else str(folder))
            yield Path(folders[hosts.index(hosts[processes.rank])])
            processes.gather(None)  # nobody reads any more
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a checkpoint, its marker first."""
        self._fs.invalidate_cache()
        if self._fs.isfile(self._path(name, COMPLETE)):
            self._fs.rm_file(self._path(name, COMPLETE))
        if self._fs.exists(self._path(name)):
            self._fs.rm(self._path(name), recursive=True)

    def set_aside(self, name: str) -> str:
        """Rename the marker, for a folder cannot be renamed."""
        marker = self._path(name, COMPLETE)
        self._fs.mv(marker, f"{marker}.damaged")
        return f"{self.location}/{name}"

    def clean(self, pattern: str) -> list[str]:
        """Remove folders without a marker."""
        whole = set(self.names())
        left = [name for name in self._folders() if Path(name).match(pattern) and name not in whole]
        left = [name for name in left if not self._fs.exists(self._path(name, f"{COMPLETE}.damaged"))]
        for name in left:
            self.remove(name)
        return left

    def _folders(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")

    def _path(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))

    def _put(self, file: Path, name: str, relative: str) -> None:
        path = self._path(name, relative)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(file), path)

    def _temporary(self) -> Path:
        if self._staging_folder is not None:
            Path(self._staging_folder).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="molmo-checkpoint-", dir=self._staging_folder))


def _file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise OLMoCheckpointError(
            f"cannot reach {url}: {error}. Install fsspec with `pip install 'molmo[remote]'`, and the package for the "
            "protocol, for example s3fs or gcsfs"
        ) from None

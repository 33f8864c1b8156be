"""Where checkpoints stand: a place with named folders, each complete or not there. This file: a folder on this machine.

A checkpoint is written to a working folder, measured, and published: on a disk by a rename, after the marker with the
checksums of all files was written and the disk holds everything. `remote` has the same for object stores. Knows nothing
of what is in the files.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from olmo.checkpoint.manifest import COMPLETE, Manifest
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.shards import files_of, is_full_disk
from olmo.exceptions import OLMoCheckpointError
from olmo.io import put_in_place, restore_previous, saving_folder, sync_to_disk


class CheckpointStore(Protocol):
    """A place for checkpoints. Methods that take `processes` are called by all of them, the others by any."""

    location: str
    """For messages."""

    def names(self) -> list[str]:
        """Complete checkpoints, sorted."""
        ...

    def working_folder(self, name: str, processes: Processes) -> Path:
        """An empty folder on this machine in which this process writes its files of a checkpoint."""
        ...

    def publish(self, name: str, manifest: Manifest, processes: Processes) -> None:
        """Make what stands in the working folders the checkpoint of that name."""
        ...

    def discard(self, name: str, processes: Processes) -> None:
        """Remove what stands in the working folder of this process."""
        ...

    def manifest(self, name: str) -> Manifest:
        """The marker of a complete checkpoint."""
        ...

    def fetched(self, name: str, processes: Processes) -> AbstractContextManager[Path]:
        """A folder on this machine with all files of a complete checkpoint, for as long as it is needed."""
        ...

    def remove(self, name: str) -> None:
        """Remove a checkpoint, its marker first."""
        ...

    def set_aside(self, name: str) -> str:
        """Give a damaged checkpoint another name, under which it is not found again; returns where it is."""
        ...

    def clean(self, pattern: str) -> list[str]:
        """Remove what interrupted saves have left of checkpoints with names like `pattern`; returns the names."""
        ...


def write_checkpoint(
    store: CheckpointStore,
    name: str,
    processes: Processes,
    write_shared: Callable[[Path], None],
    write_own: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint, or leave the place as it was. Every process calls this.

    Args:
        store: where to.
        name: name of the folder.
        processes: who writes.
        write_shared: writes with collectives into the folder it is given (see `shards`).
        write_own: writes further files of this process and waits for no other.

    Raises:
        OLMoCheckpointError: something went wrong in another process, or the disk is full.
    """
    try:
        with processes.together(f"making the folder of {name}"):
            folder = store.working_folder(name, processes)
        write_shared(folder)
        with processes.together(f"writing {name}"):
            if write_own is not None:
                write_own(folder)
            mine = Manifest.of(folder, files_of(processes.rank, folder))
        manifest = Manifest.merged(processes.gather(mine.plain()))
        store.publish(name, manifest, processes)
    except BaseException as error:
        if isinstance(error, Exception) or processes.size == 1:  # where others may be at work, the next run clears up
            with contextlib.suppress(OSError):
                store.discard(name, processes)
        if is_full_disk(error):
            raise OLMoCheckpointError(
                f"no room for {name} in {store.location}: {error}; free some space and run again. What was complete "
                "there is intact"
            ) from error
        raise


class FolderStore:
    """Checkpoints as folders in a folder that all processes see.

    Args:
        folder: the folder; it is made when something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.location = str(folder)

    def names(self) -> list[str]:
        """Complete checkpoints, sorted."""
        return sorted(marker.parent.name for marker in self.folder.glob(f"[!.]*/{COMPLETE}"))

    def working_folder(self, name: str, processes: Processes) -> Path:
        """A hidden folder beside the one that is to be."""
        target = self.folder / name
        if target.exists() and not target.is_dir():
            raise OLMoCheckpointError(f"{target} is a file, not a folder; choose another path or remove it")
        temporary = saving_folder(target)
        if processes.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            restore_previous(target)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        return temporary

    def publish(self, name: str, manifest: Manifest, processes: Processes) -> None:
        """Write the marker, have the disk hold everything, rename."""
        temporary = saving_folder(self.folder / name)
        with processes.together(f"completing {name}"):
            if not processes.is_main:
                return
            unseen = [file for file, size in manifest.files.items() if _size(temporary / file) != size]
            if unseen:
                raise OLMoCheckpointError(
                    f"{unseen[0]} was written by another process and is not in {temporary}: all processes need the "
                    "same folder. Put it on a file system that they share, or give an fsspec URL"
                )
            (temporary / COMPLETE).write_text(manifest.text(), encoding="utf-8")
            for path in (temporary / COMPLETE, *(p for p in temporary.rglob("*") if p.is_dir()), temporary):
                sync_to_disk(path)
            put_in_place(temporary, self.folder / name)

    def discard(self, name: str, processes: Processes) -> None:
        """Remove the working folder; one that cannot be removed is cleared by the next save."""
        if processes.is_main:
            shutil.rmtree(saving_folder(self.folder / name), ignore_errors=True)

    def manifest(self, name: str) -> Manifest:
        """The marker of a complete checkpoint."""
        found = Manifest.read(self.folder / name)
        if found is None:
            raise OLMoCheckpointError(f"{self.folder / name} has no {COMPLETE} file, so it is not a whole checkpoint")
        return found

    @contextmanager
    def fetched(self, name: str, processes: Processes) -> Iterator[Path]:
        """The folder itself."""
        yield self.folder / name

    def remove(self, name: str) -> None:
        """Remove a checkpoint, its marker first."""
        (self.folder / name / COMPLETE).unlink(missing_ok=True)
        sync_to_disk(self.folder / name)
        shutil.rmtree(self.folder / name)

    def set_aside(self, name: str) -> str:
        """Rename to `<name>.damaged`."""
        aside = self.folder / f"{name}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / name).rename(aside)
        return str(aside)

    def clean(self, pattern: str) -> list[str]:
        """Remove working folders and folders without a marker."""
        for previous in self.folder.glob(f".{pattern}.previous"):
            restore_previous(self.folder / previous.name.removeprefix(".").removesuffix(".previous"))
        left = [*self.folder.glob(f".{pattern}.saving")]
        left += [p for p in self.folder.glob(pattern) if p.is_dir() and not (p / COMPLETE).is_file()]
        for folder in left:
            shutil.rmtree(folder)
        return sorted(folder.name for folder in left)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None

"""Files and folders: atomic writes, and the folder behind a model id.

A reader of a file or folder written here sees the old content or the new one, never a part. Knows nothing of tensors or
models. The only module that gets models from the Hugging Face hub; of a repository it takes data files alone, never
code and never pickles.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from olmo.exceptions import OLMoCheckpointError

HUB_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.yaml", "COMPLETE")
"""Files taken from a hub repository: weights, configuration, tokenizer data, and the marker of a native checkpoint."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file so that `path` holds the old content or all of the new one, even after a crash."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.saving-{os.getpid()}")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        sync_to_disk(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(target.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of `path`, on an error it is removed.

    The folder already at `path`, with all that is in it, stays until the new one is complete and on the disk. What an
    interrupted run left beside `path` is cleared first. Only one process may write to a path at a time.

    Raises:
        OLMoCheckpointError: `path` is a file.
    """
    target = Path(path).absolute()
    if target.exists() and not target.is_dir():
        raise OLMoCheckpointError(f"{target} is a file, not a folder; choose another path or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = saving_folder(target)
    restore_previous(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for item in sorted(temporary.rglob("*")):
            sync_to_disk(item)
        sync_to_disk(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    put_in_place(temporary, target)


def put_in_place(temporary: Path, target: Path) -> None:
    """Let a finished folder, which the disk holds, take the place of `target`; the old content stays until then."""
    previous = previous_folder(target)
    if target.exists():
        target.rename(previous)
    temporary.rename(target)
    sync_to_disk(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def saving_folder(target: Path) -> Path:
    """Where `atomic_folder` builds the new content of `target`."""
    return target.with_name(f".{target.name}.saving")


def previous_folder(target: Path) -> Path:
    """Where `atomic_folder` keeps the old content of `target` for the moment between its two renames."""
    return target.with_name(f".{target.name}.previous")


def restore_previous(target: Path) -> None:
    """Undo the first rename of `put_in_place` after a crash between its two; clear what a crash after them left."""
    previous = previous_folder(target)
    if previous.is_dir():
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            previous.rename(target)


def sync_to_disk(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def resolve_model_folder(
    id_or_folder: str | Path, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The folder on this machine that holds a model's files.

    Args:
        id_or_folder: a folder, or a hub id such as `allenai/Molmo-7B-D-0924`. A folder of that name wins.
        revision: branch, tag or commit on the hub; a folder has no revisions and ignores it.
        cache_dir: hub cache to use instead of the usual one (`HF_HOME`).

    Returns:
        The folder as given, or a snapshot in the hub cache, downloaded if needed. With `HF_HUB_OFFLINE=1`, or where the
        hub cannot be reached, only the cache is used.

    Raises:
        OLMoCheckpointError: no such folder or repository, access refused, or nothing cached and no network.
    """
    folder = Path(id_or_folder).expanduser()
    if folder.is_dir():
        return folder
    name = str(id_or_folder)
    if folder.exists():
        raise OLMoCheckpointError(
            f"{name} is a file; give the folder that holds it (an original release as .tar or model.pt is turned into "
            "a folder by `molmo convert`)"
        )
    if not _HUB_ID.fullmatch(name):
        raise OLMoCheckpointError(f"no such folder: {name} (and it is not a hub id of the form owner/name)")
    try:
        return Path(snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=list(HUB_PATTERNS)))
    except (HTTPError, HFValidationError, OSError) as error:
        raise OLMoCheckpointError(_hub_problem(name, revision, error)) from error


def _hub_problem(name: str, revision: str | None, error: Exception) -> str:
    """What went wrong with the hub, and what to do about it, in one line."""
    if isinstance(error, GatedRepoError):
        return f"{name} is gated: accept its terms on the hub, then log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on the hub; leave revision out or give a branch, tag or commit"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a folder here nor a repository on the hub; check the spelling, or log in with "
            "`hf auth login` if it is private"
        )
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"{name} is not, or not wholly, in the hub cache, and the hub cannot be reached (offline, or "
            f"HF_HUB_OFFLINE=1); download it where there is a network with `hf download {name}` and give the folder"
        )
    reason = " ".join(str(error).split())
    return f"cannot get {name} from the hub: {reason}; try again, or download it and give the folder"

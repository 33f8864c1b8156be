"""Frames in .npy and .npz files. Never with pickles, which could run code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.source import VideoLimits

FRAMES_KEY, SECONDS_KEY, FPS_KEY = "frames", "seconds", "fps"


def load_frames(
    file: Path | bytes, is_archive: bool, name: str, limits: VideoLimits
) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    """The frames of a file, with times or a rate where it holds them.

    Args:
        file: path, or content. A .npy file on disk is mapped, so that only wanted frames are read.
        is_archive: whether it is .npz: an array `frames` (or a single one of any name), and `seconds` `[T]` or `fps`.
        name: what messages call it.
        limits: an archive that unpacks to more than `max_bytes` is refused.

    Returns:
        (frames of any dtype and shape, seconds, fps).

    Raises:
        OLMoInputError: damaged, with objects in it, too large, or without frames.
    """
    try:
        if not is_archive:
            if isinstance(file, bytes):
                return np.load(io.BytesIO(file), allow_pickle=False), None, None
            return np.load(file, mmap_mode="r", allow_pickle=False), None, None
        return _from_archive(io.BytesIO(file) if isinstance(file, bytes) else file, name, limits)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile) as error:
        raise OLMoInputError(
            f"{name} is no NumPy file with plain numbers ({error}); write it with np.save or np.savez"
        ) from None


def _from_archive(
    file: Path | io.BytesIO, name: str, limits: VideoLimits
) -> tuple[np.ndarray, np.ndarray | None, float | None]:
    with zipfile.ZipFile(file) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    if n_bytes > limits.max_bytes:
        raise OLMoInputError(
            f"{name} unpacks to {n_bytes / 2**30:.1f} GiB, over the limit of {limits.max_bytes / 2**30:.1f} GiB; write "
            "the frames as .npy, which is read piece by piece, or raise VideoLimits.max_bytes"
        )
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        names = [n for n in arrays.files if n not in (SECONDS_KEY, FPS_KEY)]
        key = FRAMES_KEY if FRAMES_KEY in names else names[0] if len(names) == 1 else None
        if key is None:
            raise OLMoInputError(f"{name} holds arrays {names}; call the one with the frames {FRAMES_KEY!r}")
        seconds = arrays[SECONDS_KEY] if SECONDS_KEY in arrays.files else None
        fps = float(arrays[FPS_KEY]) if FPS_KEY in arrays.files else None
        return arrays[key], seconds, fps

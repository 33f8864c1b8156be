"""The folder of a run belongs to one run at a time: a lock that names its owner.

The lock is a file with host, process id and the moment that process started. It is taken over when its owner is gone:
at once where that can be seen (same host), after ten minutes without a sign of life where it cannot (another host). The
owner touches the file every minute. Knows nothing of checkpoints.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoCheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "LOCK"
HEARTBEAT_S = 60.0
"""Seconds between two signs of life of the owner."""

SILENT_S = 600.0
"""Seconds without one after which a lock of another host counts as left behind."""


class RunLock:
    """Holds a run folder for this process.

    Args:
        run_dir: the folder; it is made if need be.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / LOCK
        self._mark: dict[str, Any] = {}
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the folder, or say who has it. A later lock of the same process takes over from an earlier one.

        Raises:
            OLMoCheckpointError: another run is at work in the folder.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        self._mark = {"host": socket.gethostname(), "pid": pid, "started": process_start(pid), "id": uuid.uuid4().hex}
        with self._guard():
            owner = read_lock(self.path)
            if owner is not None and is_alive(owner, self.path):
                raise OLMoCheckpointError(
                    f"another run works in {self.run_dir}: process {owner['pid']} on {owner['host']}. Wait for it, "
                    f"stop it, or choose another run_dir. If that process is gone, remove {self.path}"
                )
            temporary = self.path.with_name(f".{LOCK}.{self._mark['id']}")
            temporary.write_text(json.dumps(self._mark), encoding="utf-8")
            temporary.replace(self.path)
        self._stop.clear()
        threading.Thread(target=self._beat, name="run folder lock", daemon=True).start()
        atexit.register(self.release)

    def release(self) -> None:
        """Give the folder back; does nothing where it is no longer ours."""
        self._stop.set()
        atexit.unregister(self.release)
        if self._mark and self._is_ours():
            self.path.unlink(missing_ok=True)
        self._mark = {}

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_ours(self) -> bool:
        return os.getpid() == self._mark["pid"] and (read_lock(self.path) or {}).get("id") == self._mark["id"]

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            if not self._is_ours():
                return
            os.utime(self.path)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Let one process at a time look at the lock and take it; where the file system cannot, go without."""
        descriptor = os.open(self.run_dir / f".{LOCK}.guard", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a network file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_lock(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None where nobody does, or where the file cannot be understood."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(found, dict) and {"host", "pid", "started", "id"} <= found.keys()
    return found if is_whole else None


def is_alive(owner: dict[str, Any], path: Path) -> bool:
    """Whether the owner of a lock may still be at work; this process itself does not count."""
    if owner["host"] != socket.gethostname():
        return _silence_s(path) < SILENT_S
    if owner["pid"] == os.getpid():
        return False
    started = process_start(owner["pid"])
    return started is not None and owner["started"] in (None, started)


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in a form that tells apart two of the same id; None where it is gone."""
    with contextlib.suppress(PermissionError):  # it lives, and belongs to somebody else
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
    return None if after_name[0] == "Z" else f"{boot}:{after_name[19]}"


def _silence_s(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its own file system."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        now = time.time()
    finally:
        probe.unlink(missing_ok=True)
    try:
        return now - path.stat().st_mtime
    except OSError:
        return float("inf")

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from toy_run import opened

from olmo.exceptions import OLMoCheckpointError
from olmo.train.run_folder.lock import LOCK, SILENT_S, RunLock, process_start


def owner(folder: Path, **changes: object) -> None:
    """Write the lock of some process."""
    values = {"host": socket.gethostname(), "pid": 1, "started": process_start(1), "id": "x"} | changes
    (folder / LOCK).write_text(json.dumps(values))


def test_a_folder_is_taken_and_given_back(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as lock:
        values = json.loads(lock.path.read_text())
        assert (values["host"], values["pid"]) == (socket.gethostname(), os.getpid())
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_runs_in_one_folder_are_an_error_that_says_who_and_what_to_do(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    if (child := os.fork()) == 0:
        RunLock(tmp_path).acquire()
        os.write(tell, b"1")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(OLMoCheckpointError) as caught:
            opened(tmp_path)
        for part in (str(child), socket.gethostname(), "run_dir", str(tmp_path / LOCK)):
            assert part in str(caught.value)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with RunLock(tmp_path):  # its owner is gone
        pass


def test_the_same_process_may_begin_again(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    second.acquire()
    first.release()
    assert (tmp_path / LOCK).exists()
    second.release()
    assert not (tmp_path / LOCK).exists()


def test_a_new_process_with_an_old_number_is_not_the_owner(tmp_path: Path) -> None:
    owner(tmp_path, started="another boot:12")
    with RunLock(tmp_path):
        pass
    owner(tmp_path)
    with pytest.raises(OLMoCheckpointError, match="process 1 on"):
        RunLock(tmp_path).acquire()


def test_another_host_is_believed_for_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    owner(tmp_path, host="elsewhere")
    with pytest.raises(OLMoCheckpointError, match="elsewhere"):
        RunLock(tmp_path).acquire()
    past = time.time() - SILENT_S - 5
    os.utime(tmp_path / LOCK, (past, past))
    with RunLock(tmp_path):
        pass


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo.train.run_folder.lock.HEARTBEAT_S", 0.02)
    with RunLock(tmp_path) as lock:
        os.utime(lock.path, (1, 1))
        deadline = time.monotonic() + 10
        while lock.path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.path.stat().st_mtime > 1


def test_a_lock_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")
    with RunLock(tmp_path):
        pass


def test_an_error_in_the_constructor_gives_the_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    owner(tmp_path / "other")
    with pytest.raises(OLMoCheckpointError, match="other"):
        opened(tmp_path / "run", folder=str(tmp_path / "other"))
    assert not (tmp_path / "run" / LOCK).exists()


def test_checkpoints_elsewhere_are_locked_too(tmp_path: Path) -> None:
    with opened(tmp_path / "run", folder=str(tmp_path / "other")):
        assert (tmp_path / "run" / LOCK).exists() and (tmp_path / "other" / LOCK).exists()
    assert not (tmp_path / "run" / LOCK).exists() and not (tmp_path / "other" / LOCK).exists()

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from olmo.checkpoint.manifest import COMPLETE
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.remote import RemoteStore, open_store
from olmo.checkpoint.store import CheckpointStore, FolderStore, write_checkpoint
from olmo.exceptions import OLMoCheckpointError

ALONE = Processes()


@pytest.fixture(params=["folder", "memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CheckpointStore]:
    """The same rules for a folder, an object store in memory, and a folder behind a URL."""
    place = {
        "folder": str(tmp_path / "place"),
        "memory": f"memory://{uuid.uuid4().hex}/run",
        "file": f"file://{tmp_path}/place",
    }[request.param]
    yield open_store(place, staging_folder=str(tmp_path / "staging"))
    staging = tmp_path / "staging"
    assert not staging.exists() or not list(staging.iterdir())


def write(store: CheckpointStore, name: str, text: str) -> None:
    def shared(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "shard-00001-model-00001-of-00001.safetensors").write_text(text)

    write_checkpoint(store, name, ALONE, shared, lambda folder: (folder / "train.json").write_text(text * 2))


def read(store: CheckpointStore, name: str) -> str:
    with store.fetched(name, ALONE) as folder:
        assert not store.manifest(name).damage(folder)
        return (folder / "train.json").read_text()


def test_the_right_store_is_opened(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), FolderStore)
    assert isinstance(open_store("memory://a"), RemoteStore)


def test_what_is_written_is_found_and_read(store: CheckpointStore) -> None:
    assert store.names() == []
    write(store, "b", "x")
    write(store, "a", "y")
    assert store.names() == ["a", "b"]
    assert (read(store, "a"), read(store, "b")) == ("yy", "xx")
    assert set(store.manifest("a").files) == {"model/shard-00001-model-00001-of-00001.safetensors", "train.json"}
    write(store, "a", "zzz")
    assert read(store, "a") == "zzzzzz"
    store.remove("a")
    assert store.names() == ["b"]


def test_a_failing_write_leaves_the_old_one(store: CheckpointStore) -> None:
    write(store, "a", "x")

    def fail(folder: Path) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_checkpoint(store, "a", ALONE, fail)
    assert read(store, "a") == "xx"


def test_one_set_aside_is_not_found_again_and_not_cleared(store: CheckpointStore) -> None:
    write(store, "step1", "x")
    where = store.set_aside("step1")
    assert "step1" in where
    assert store.names() in ([], ["step1.damaged"])
    assert store.clean("step1") == []


def remote_files(url: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).lstrip("/") for path in fs.find(root))


def test_the_marker_is_copied_last_and_without_it_there_is_no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = RemoteStore(url)
    write(store, "step1", "old")
    fs, _ = fsspec.core.url_to_fs(url)
    put_file = fs.put_file
    for n_allowed in range(3):
        copied: list[str] = []

        def stop(*args: object, n: int = n_allowed, copied: list[str] = copied, **kwargs: object) -> None:
            if len(copied) == n:
                raise ConnectionError("the line is cut")
            copied.append(str(args[-1]))
            put_file(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(fs), "put_file", staticmethod(stop))
            if n_allowed == 2:
                patch.setattr(type(fs), "pipe_file", staticmethod(lambda *a, **k: stop("marker")))
            with pytest.raises(ConnectionError, match="cut"):
                write(store, "step2", "new")
        assert store.names() == ["step1"]
        assert read(store, "step1") == "oldold"
        left = [f for f in remote_files(url) if f.startswith("step2")]
        assert len(left) == n_allowed and not any(f.endswith(COMPLETE) for f in left)
        assert store.clean("step[0-9]") == ["step2"]
        assert not [f for f in remote_files(url) if f.startswith("step2")]
    write(store, "step2", "new")
    assert store.names() == ["step1", "step2"]


def test_a_file_that_arrives_short_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = RemoteStore(f"memory://{uuid.uuid4().hex}")
    fs, _ = fsspec.core.url_to_fs(store.location)
    monkeypatch.setattr(type(fs), "size", lambda self, path: 1)
    with pytest.raises(OLMoCheckpointError, match="has 1 bytes instead of"):
        write(store, "a", "x")
    assert store.names() == []


def test_an_unknown_protocol_names_what_to_install() -> None:
    with pytest.raises(OLMoCheckpointError, match="pip install"):
        open_store("nosuch://bucket")

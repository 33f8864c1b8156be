from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import COMMIT, fake_hub
from huggingface_hub.errors import (
    GatedRepoError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

import olmo.io
from olmo.exceptions import OLMoCheckpointError
from olmo.io import atomic_folder, previous_folder, resolve_model_folder, saving_folder, write_atomic


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder) as new:
        (new / "deep").mkdir()
        (new / "deep" / "a.txt").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path):
    file = tmp_path / "deep" / "a.json"
    write_atomic(file, "old")
    write_atomic(file, b"new")
    assert file.read_text() == "new"
    assert names(file.parent) == ["a.json"]


def test_write_atomic_keeps_the_old_content_on_an_error(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    monkeypatch.setattr(olmo.io, "sync_to_disk", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_atomic_folder_replaces_all_of_the_old_one(tmp_path):
    folder = tmp_path / "c"
    fill(folder, "old")
    (folder / "leftover").write_text("x")
    fill(folder, "new")
    assert names(folder) == ["deep"]
    assert (folder / "deep" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["c"]


def test_atomic_folder_keeps_the_old_one_on_an_error(tmp_path):
    folder = tmp_path / "c"
    fill(folder, "old")
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(folder) as new:
        (new / "half").write_text("x")
        assert (folder / "deep" / "a.txt").read_text() == "old"
        raise RuntimeError("stop")
    assert (folder / "deep" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["c"]


def test_atomic_folder_clears_what_a_killed_run_left(tmp_path):
    folder = tmp_path / "c"
    fill(folder, "old")
    saving_folder(folder).mkdir()
    (saving_folder(folder) / "half").write_text("x")
    fill(folder, "new")
    assert names(folder) == ["deep"]
    assert names(tmp_path) == ["c"]


def test_atomic_folder_takes_back_the_old_one_after_a_crash_between_the_renames(tmp_path):
    folder = tmp_path / "c"
    fill(folder, "old")
    folder.rename(previous_folder(folder))
    with pytest.raises(RuntimeError), atomic_folder(folder):
        raise RuntimeError("stop")
    assert (folder / "deep" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["c"]


def test_atomic_folder_refuses_a_file(tmp_path):
    (tmp_path / "c").write_text("precious")
    with pytest.raises(OLMoCheckpointError, match="is a file"), atomic_folder(tmp_path / "c"):
        pass
    assert (tmp_path / "c").read_text() == "precious"


def test_a_folder_is_itself(tmp_path):
    assert resolve_model_folder(tmp_path, revision="ignored") == tmp_path


def test_a_file_points_to_convert(tmp_path):
    (tmp_path / "m.tar").write_text("x")
    with pytest.raises(OLMoCheckpointError, match="molmo convert"):
        resolve_model_folder(tmp_path / "m.tar")


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c", "", "../x"])
def test_a_wrong_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(olmo.io, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    if name == "":
        assert resolve_model_folder(name) == Path()  # the empty path is the working folder
    else:
        with pytest.raises(OLMoCheckpointError, match="no such folder"):
            resolve_model_folder(name)


def test_neither_code_nor_pickles_are_taken_from_the_hub(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(olmo.io, "snapshot_download", lambda name, **options: asked.update(options) or str(tmp_path))
    resolve_model_folder("owner/name")
    data = ["config.json", "model-00001-of-2.safetensors", "merges.txt", "config.yaml"]
    others = [
        "modeling_molmo.py",
        "model.pt",
        "pytorch_model.bin",
        "optimizer.pkl",
        "tokenizer.model",
        "lib.so",
        "a.h5",
    ]
    assert list(filter_repo_objects([*others, *data], allow_patterns=asked["allow_patterns"])) == data


class Response:
    """What the errors of the hub client want to know of a response."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.status_code = 404
        self.request = None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RepositoryNotFoundError("x", response=Response()), "check the spelling"),
        (GatedRepoError("x", response=Response()), "accept its terms"),
        (RevisionNotFoundError("x", response=Response()), "no revision 'v9'"),
        (LocalEntryNotFoundError("x"), "HF_HUB_OFFLINE"),
        (IncompleteSnapshotError("x", "/tmp"), "hf download"),
        (ConnectionError("cable out"), "cable out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_of_the_hub_says_what_to_do(error, expected, monkeypatch):
    def fail(*_args: object, **_kwargs: object) -> str:
        raise error

    monkeypatch.setattr(olmo.io, "snapshot_download", fail)
    with pytest.raises(OLMoCheckpointError, match="owner/name") as caught:
        resolve_model_folder("owner/name", revision="v9")
    assert expected in str(caught.value)


def test_offline_takes_the_cached_snapshot(tmp_path):
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert resolve_model_folder("owner/name", cache_dir=tmp_path) == snapshot
    with pytest.raises(OLMoCheckpointError, match="cannot be reached"):
        resolve_model_folder("owner/other", cache_dir=tmp_path)


LOAD = """
import sys, torch
from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.molmo import Molmo
for name in sys.argv[1:]:
    try:
        model = Molmo.from_pretrained(name, trust_remote_code=True)
        print(name, float(sum(p.double().sum() for p in model.parameters())))
    except OLMoCheckpointError as error:
        print(error)
"""


@pytest.mark.slow  # two fresh processes import torch: 8 s
def test_a_model_is_downloaded_without_its_code_and_then_found_offline(tmp_path, golden_dir):
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"):
        (repository / name).write_bytes((golden_dir / "molmo_d" / name).read_bytes())
    (repository / "modeling_molmo.py").write_text("raise SystemExit('code was run')")
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def load(*models: str, **more: str) -> list[str]:
        result = subprocess.run(
            [sys.executable, "-c", LOAD, *models], env={**os.environ, **settings, **more}, capture_output=True,
            text=True, timeout=120, check=True,
        )  # fmt: skip
        return result.stdout.splitlines()

    with fake_hub({"tiny/molmo": repository}, gated=("tiny/gated",)) as hub:
        online = load("tiny/molmo", "tiny/none", "tiny/gated", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert hub.files_sent() == {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    assert online[0].startswith("tiny/molmo ")
    assert "tiny/none is neither a folder here nor a repository" in online[1]
    assert "tiny/gated is gated" in online[2]
    offline = load("tiny/molmo", "tiny/other", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert offline[0] == online[0]
    assert "not, or not wholly, in the hub cache" in offline[1]

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from olmo.checkpoint.manifest import COMPLETE, Manifest
from olmo.exceptions import OLMoCheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"")
    return tmp_path


def test_sizes_and_checksums(folder: Path) -> None:
    manifest = Manifest.of(folder, ["model/a", "b"])
    assert manifest.files == {"model/a": 3, "b": 0}
    assert manifest.sha256["model/a"] == hashlib.sha256(b"one").hexdigest()
    assert manifest.damage(folder) == []


def test_a_marker_reads_back(folder: Path) -> None:
    assert Manifest.read(folder) is None
    manifest = Manifest.merged(Manifest.of(folder, [name]).plain() for name in ("b", "model/a"))
    (folder / COMPLETE).write_text(manifest.text())
    assert Manifest.read(folder) == manifest


def test_a_marker_without_checksums_compares_sizes(folder: Path) -> None:
    (folder / COMPLETE).write_text(json.dumps({"files": {"model/a": 3}}))
    manifest = Manifest.read(folder)
    assert manifest is not None and manifest.damage(folder) == []
    (folder / "model" / "a").write_bytes(b"two")
    assert manifest.damage(folder) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"on", "2 bytes instead of 3"), (b"two", "another checksum")],
)
def test_damage_is_named(folder: Path, content: bytes | None, message: str) -> None:
    manifest = Manifest.of(folder, ["model/a", "b"])
    file = folder / "model" / "a"
    file.unlink() if content is None else file.write_bytes(content)
    (found,) = manifest.damage(folder)
    assert found.startswith("model/a") and message in found
    assert manifest.damage(folder, ["b"]) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"files": 3}', '{"files": {"a": "x"}}', '{"files": {}, "sha256": 1}']
)
def test_an_unreadable_marker_is_one_clear_error(folder: Path, text: str) -> None:
    (folder / COMPLETE).write_text(text)
    with pytest.raises(OLMoCheckpointError, match="cannot be read"):
        Manifest.read(folder)

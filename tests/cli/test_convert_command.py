from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from olmo.models.auto import from_pretrained
from olmo.models.molmo import native_release
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo


def assert_same_weights(a: Molmo, b: Molmo) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def released(golden_dir: Path) -> Path:
    folder = golden_dir / "molmo_d"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def test_a_released_folder_becomes_native_and_back(molmo, released, tmp_path):
    native, back = tmp_path / "native", tmp_path / "hf"
    result = molmo("convert", released, native, "--to", "native")
    assert result.code == 0
    assert str(native) in result.out and "Reading" in result.err and "Writing" in result.err
    assert_same_weights(Molmo.from_pretrained(native), Molmo.from_pretrained(released))
    assert molmo("convert", native, back, "--to", "hf").code == 0
    assert (back / "config.json").is_file()
    assert_same_weights(Molmo.from_pretrained(back), Molmo.from_pretrained(released))
    assert Molmo.from_pretrained(back).tokenizer.encode("hi") == Molmo.from_pretrained(released).tokenizer.encode("hi")


def test_the_number_format_is_kept_or_chosen(molmo, tiny, tmp_path):
    assert "float32" in molmo("convert", tiny, tmp_path / "a", "--to", "native").out
    half = molmo("convert", tiny, tmp_path / "b", "--to", "native", "--dtype", "bfloat16")
    assert "bfloat16" in half.out
    assert "bfloat16" in molmo("convert", tmp_path / "b", tmp_path / "c", "--to", "native").out


@pytest.fixture
def release(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that looks like an original release; what it holds is tested beside its reader."""
    model = Molmo.from_pretrained(tiny)
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"")
    shutil.copy(tiny / "tokenizer.json", folder)
    content = model.config.asdict(), model.state_dict()
    monkeypatch.setattr("olmo.cli.convert.read_native_release", lambda path, scratch: content)
    return folder


def test_an_original_release_becomes_native(molmo, release, tiny, tmp_path):
    result = molmo("convert", release, tmp_path / "native", "--to", "native")
    assert result.code == 0, result.err
    assert_same_weights(Molmo.from_pretrained(tmp_path / "native"), Molmo.from_pretrained(tiny))


def test_a_missing_tokenizer_is_a_warning(molmo, release, tmp_path):
    (release / "tokenizer.json").unlink()
    result = molmo("convert", release, tmp_path / "native", "--to", "native")
    assert result.code == 0
    assert "warning: written without a tokenizer" in result.err


def test_a_damaged_release_is_one_line(molmo, tmp_path):
    (tmp_path / "model.tar").write_bytes(b"no tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / native_release.WEIGHTS).write_bytes(b"no weights")
    for source in ("model.tar", "folder"):
        result = molmo("convert", tmp_path / source, tmp_path / "out", "--to", "native")
        assert result.code == 1
        assert sum(line.startswith("error: ") for line in result.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_full_target_is_kept_without_force(molmo, tiny, tmp_path):
    target = tmp_path / "out"
    assert molmo("convert", tiny, target, "--to", "native").code == 0
    refused = molmo("convert", tiny, target, "--to", "native")
    assert refused.code == 1 and "--force" in refused.err and refused.err.count("\n") == 1
    assert molmo("convert", tiny, target, "--to", "native", "--force").code == 0
    (target / "mine.txt").write_text("precious")
    assert molmo("convert", tiny, target, "--to", "native", "--force").code == 1
    assert (target / "mine.txt").read_text() == "precious"


def test_the_source_is_never_the_target(molmo, tiny):
    result = molmo("convert", tiny, tiny, "--to", "native", "--force")
    assert result.code == 1 and "is the source" in result.err
    assert Molmo.from_pretrained(tiny)


@pytest.mark.parametrize("to", [(), ("--to", "gguf")])
def test_the_layout_must_be_known(molmo, tiny, tmp_path, to):
    result = molmo("convert", tiny, tmp_path / "out", *to)
    assert result.code == 2 and "native" in result.err


def test_an_adapter_is_merged_on_the_way(molmo, tiny, adapter, tmp_path):
    result = molmo("convert", tiny, tmp_path / "merged", "--to", "native", "--merge-adapter", adapter)
    assert result.code == 0 and f"Merging {adapter}" in result.err
    name = "llm.blocks.0.mlp.ff_out.weight"
    merged, base = (Molmo.from_pretrained(folder).state_dict() for folder in (tmp_path / "merged", tiny))
    torch.testing.assert_close(merged[name], base[name] + 1.0)
    assert [n for n in base if not torch.equal(merged[n], base[n])] == [name]
    missing = molmo("convert", tiny, tmp_path / "other", "--to", "native", "--merge-adapter", tmp_path)
    assert missing.code == 1 and "give the folder of an adapter" in missing.err
    assert not (tmp_path / "other").exists()


def test_a_video_model_stays_one(molmo, tiny_video, tmp_path):
    assert molmo("convert", tiny_video, tmp_path / "copy", "--to", "native", "--dtype", "float32").code == 0
    copy = from_pretrained(tmp_path / "copy")
    assert isinstance(copy, VideoOlmo) and copy.config.max_frames == 6
    assert_same_weights(copy, from_pretrained(tiny_video))
    result = molmo("convert", tiny_video, tmp_path / "hf", "--to", "hf")
    assert result.code == 1 and "no released layout for VideoOlmo" in result.err

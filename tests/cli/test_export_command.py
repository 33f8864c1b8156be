from __future__ import annotations

import json
from pathlib import Path

import pytest
from untrained import OVERRIDES, ROOT

from olmo.models.auto import from_pretrained
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint whose projector the released layout has a place for."""
    overrides = [change for change in OVERRIDES if "projector_hidden_size" not in change]
    overrides.append("vision_backbone.vit.resize=siglip")
    folder = tmp_path_factory.mktemp("models") / "plain"
    Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", overrides)).save_checkpoint(folder)
    return folder


def test_a_model_becomes_a_folder_for_engines(molmo, plain, tmp_path):
    out = tmp_path / "out"
    result = molmo("export", plain, out, "--format", "hf", "--dtype", "bfloat16")
    assert result.code == 0, result.err
    assert f"{out} (hf, " in result.out and "bfloat16" in result.out
    assert "vLLM: cannot run it" in result.out and "  mm_preprocessor.crop_mode is 'resize'" in result.out
    assert "Reading" in result.err and "Writing" in result.err
    assert "without the code of a processor" in result.err
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert from_pretrained(out, dtype="auto").num_params() == from_pretrained(plain).num_params()


def test_variants_are_exported_and_nothing_is_overwritten_unasked(molmo, plain, tmp_path):
    video = tmp_path / "video"
    VideoOlmo.from_pretrained(plain).save_checkpoint(video)
    assert molmo("export", video, tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["VideoOlmoForCausalLM"]
    again = molmo("export", video, tmp_path / "out")
    assert again.code == 1 and "--force" in again.err
    assert molmo("export", video, tmp_path / "out", "--force").code == 0
    assert molmo("export", tmp_path / "out", tmp_path / "again").code == 0


def test_what_the_layout_has_no_place_for_is_one_line(molmo, tiny, tmp_path):
    result = molmo("export", tiny, tmp_path / "out")
    assert result.code == 1
    assert "error: the released layout has no place for vision_backbone.projector_hidden_size" in result.err
    own_resize = tmp_path / "own"
    overrides = [change for change in OVERRIDES if "projector_hidden_size" not in change]
    Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", overrides)).save_checkpoint(own_resize)
    assert "resize_mode is 'dino'" in molmo("export", own_resize, tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_a_format_that_there_is_not(molmo, tiny, tmp_path):
    assert molmo("export", tiny, tmp_path / "out", "--format", "gguf").code == 2

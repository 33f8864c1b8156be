"""The command line in this process, a tiny untrained model and a few pictures."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from clips import clip_frames, save_clip
from PIL import Image
from safetensors.torch import save_file
from untrained import save_tiny_model

from olmo.cli.main import run
from olmo.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, KEY_PREFIX
from olmo.models.base import ModelBase
from olmo.models.video_olmo.video_olmo import VideoOlmo


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def molmo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs one command line: `molmo("ask", picture, "What is this?")`, with `stdin=` for what is piped in."""

    def call(*arguments: object, stdin: str | io.StringIO = "") -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native checkpoint of a tiny untrained model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_video(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as one that takes videos, six frames of each."""
    folder = tmp_path_factory.mktemp("models") / "tiny-video"
    VideoOlmo.from_pretrained(tiny, overrides=["max_frames=6"]).save_checkpoint(folder)
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """An animated WebP of 12 frames, 4 a second, in which a square moves."""
    return save_clip(clip_frames(), tmp_path / "clip.webp", ".webp")


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """An adapter of the tiny model that adds one to every weight of a layer."""
    folder, layer = tmp_path / "adapter", f"{KEY_PREFIX}llm.blocks.0.mlp.ff_out"
    folder.mkdir()
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 48), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1.0, "base_model_name_or_path": str(tiny)}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of 60 x 40 pixels."""
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Makes every model answer the given pieces, and returns the list of calls it will get."""

    def install(*pieces: str) -> list[dict]:
        calls: list[dict] = []

        def stream(self: ModelBase, **inputs: object) -> Iterator[str]:
            calls.append({**inputs, "text": self.tokenizer.decode(inputs["input_ids"].tolist())})
            yield from pieces

        monkeypatch.setattr(ModelBase, "stream", stream)
        return calls

    return install

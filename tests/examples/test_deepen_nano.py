"""More blocks in the middle of a molmo-nano change nothing at first."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from olmo.models.bundled import bundled_model_folder
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo

ROOT = Path(__file__).resolve().parents[2]


def test_the_deeper_model_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = ROOT / "configs" / "molmo-nano-video", tmp_path / "deep"
    arguments = [str(bundled_model_folder()), str(config), str(out), "--after", "2"]
    monkeypatch.setattr(sys, "argv", ["deepen_nano.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "deepen_nano.py"), run_name="__main__")
    small, large = Molmo.from_pretrained(bundled_model_folder()).eval(), VideoOlmo.from_pretrained(out).eval()
    assert large.config.llm.n_layers == small.config.llm.n_layers + 3
    ids = torch.randint(0, 1800, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(large(ids).logits, small(ids).logits)
    with pytest.raises(SystemExit, match="has 4 blocks"):
        monkeypatch.setattr(sys, "argv", ["deepen_nano.py", *arguments[:-1], "9"])
        runpy.run_path(str(ROOT / "scripts" / "deepen_nano.py"), run_name="__main__")

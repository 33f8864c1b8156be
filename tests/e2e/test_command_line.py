"""The program as a person runs it: a process of its own, real streams, a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from untrained import ROOT, save_tiny_model

from olmo.exceptions import OLMoCheckpointError
from olmo.models.bundled import bundled_model_folder

PICTURE = ROOT / "examples" / "pictures" / "scene.png"
MOLMO = (sys.executable, "-m", "olmo.cli.main")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundled model, or an untrained one in a source tree that has none yet."""
    try:
        yield bundled_model_folder()
    except OLMoCheckpointError:
        folder = tmp_path_factory.mktemp("e2e") / "tiny"
        save_tiny_model(folder)
        yield folder


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*MOLMO, *map(str, arguments)], cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finish(process: subprocess.Popen[str], stdin: str = "") -> tuple[int, str, str]:
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out, err


def test_a_question_about_a_picture(model: Path, tmp_path: Path) -> None:
    asked = start("ask", PICTURE, "Point to the trees.", "--model", model, "--json", "--save", "out.png", cwd=tmp_path)
    code, out, err = finish(asked)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["image"] == str(PICTURE)
    assert all(0 <= p["x"] <= 100 and 0 <= p["y_px"] <= 504 for p in answer["points"])
    assert Image.open(tmp_path / "out.png").size == Image.open(PICTURE).size
    assert err == f"{len(answer['points'])} point(s) drawn on out.png\n"


def test_a_conversation_through_a_pipe(model: Path, tmp_path: Path) -> None:
    talk = start("chat", PICTURE, "--model", model, "--max-new-tokens", 4, cwd=tmp_path)
    code, out, err = finish(talk, "How many trees are there?\n/clear\nRead the sign.\n")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 2


LONG_ANSWER = ("ask", "Describe it.", "--max-new-tokens", 800, "--temperature", 2, "--seed", 1)


def test_ctrl_c_is_quiet(model: Path, tmp_path: Path) -> None:
    process = start(*LONG_ANSWER, "--model", model, cwd=tmp_path)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) in ((130, ""), (0, "")), "0 where the answer ended before the signal came"


def test_a_closed_pipe_is_quiet(model: Path, tmp_path: Path) -> None:
    process = start(*LONG_ANSWER, "--model", model, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    code, _, err = finish(process)
    assert (code, err) == (1, "")

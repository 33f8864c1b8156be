"""`molmo batch` as a program: what it tells, wrong options, and a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def written(folder: Path, n: int, **settings: object) -> Path:
    rows = [{"id": f"row {i}", "prompt": f"question {i}", **settings} for i in range(n)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def test_it_answers_a_file_and_says_how_many_failed(molmo, tiny: Path, picture: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "new" / "out.jsonl"
    body = {"model": "eyes", "messages": [{"role": "user", "content": "hello"}]}
    rows = [{"prompt": "look", "image": picture.name}, {"custom_id": "a", "body": body}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--model", tiny, "--name", "eyes", "--max-new-tokens", "4", "max_rows=2")
    result = molmo("batch", source, target, *options)
    assert result.code == 0 and "2 rows are answered" in result.out and "0 with an error" in result.out
    first, second = map(json.loads, target.read_text().splitlines())
    assert first["image_sizes"] == [{"width": 60, "height": 40}] and first["usage"]["completion_tokens"] <= 4
    assert second["response"]["body"]["model"] == "eyes"
    assert molmo("batch", source, target, *options).code == 1, "nothing is written over"
    source.write_text('{"prompt": "look", "image": "gone.png"}\n')
    result = molmo("batch", source, target, *options, "--fresh")
    assert result.code == 1 and "1 with an error" in result.out
    assert "gone.png" in json.loads(target.read_text())["error"]["message"]


@pytest.mark.parametrize(("words", "match"), [
    (["none.jsonl", "out.jsonl"], "there is no file"), (["in.jsonl", "in.jsonl"], "is the file that is read"),
    (["in.jsonl", "out.jsonl", "max_row=3"], "max_rows"), (["in.jsonl", "."], "is a folder"),
    (["in.jsonl", "out.parquet"], "name it .jsonl"), (["in.jsonl", "out", "--prompt", "What?"], "is not a folder"),
    (["empty", "out.jsonl"], "holds no requests"), (["empty", "out.jsonl", "--prompt", "What?"], "holds no pictures"),
])  # fmt: skip
def test_wrong_words_are_named_before_the_model_is_loaded(
    molmo, words: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("olmo.cli.batch.load_model", lambda *a: pytest.fail("a model was loaded"))
    written(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    result = molmo("batch", *words)
    assert result.code == 1 and match in result.err


def test_a_missing_extra_of_a_batch_is_named(molmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("olmo.serve.") and "config" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    result = molmo("batch", written(tmp_path, 1), tmp_path / "out.jsonl")
    assert result.code == 1 and "pip install 'molmo[serve]'" in result.err


def test_pictures_of_a_folder_with_one_question(molmo, tiny: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("b.png", "a.png"):
        (tmp_path / "p" / name).write_bytes(picture.read_bytes())
    words = ("--model", tiny, "--prompt", "What is it?", "--max-new-tokens", "3")
    assert molmo("batch", tmp_path / "p", tmp_path / "out.jsonl", *words).code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a.png", "b.png"] and lines[0]["text"] == lines[1]["text"]
    assert lines[0]["image_sizes"] == [{"width": 60, "height": 40}]


def test_ray_is_named_where_it_is_missing(molmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setitem(sys.modules, "ray", None)
    result = molmo("batch", written(tmp_path, 1), tmp_path / "out.jsonl", "--engine", "ray")
    assert result.code == 1 and "pip install 'molmo[ray]'" in result.err
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    for wrong in (("--engine", "spark"), ("--workers", "0")):
        assert molmo("batch", tmp_path / "in.jsonl", tmp_path / "out.jsonl", *wrong).code == 2


@pytest.mark.slow
def test_several_processes_write_what_one_writes(molmo, tiny: Path, tmp_path: Path) -> None:
    source = written(tmp_path, 20, max_tokens=4)
    for name, words in (("one", ()), ("two", ("--workers", "2"))):
        result = molmo("batch", source, tmp_path / name, "--model", tiny, "max_rows=2", *words)
        assert result.code == 0 and "20 rows are answered" in result.out
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()


@pytest.mark.slow
def test_a_batch_that_was_killed_goes_on(molmo, tiny: Path, tmp_path: Path) -> None:
    source, part = written(tmp_path, 300, max_tokens=60), tmp_path / "out.jsonl.part"
    target = tmp_path / "out.jsonl"
    words = ["batch", str(source), str(target), "--model", str(tiny), "max_rows=4"]
    process = subprocess.Popen([sys.executable, "-m", "olmo.cli.main", *words])
    try:
        while not part.exists() or part.read_bytes().count(b"\n") < 20:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    n_left = part.read_bytes().count(b"\n") - 1
    assert not target.exists() and 0 < n_left < 300
    result = molmo(*words)
    assert result.code == 0 and f"{n_left} of them by an earlier run" in result.out
    assert molmo("batch", source, tmp_path / "whole.jsonl", *words[3:]).code == 0
    assert target.read_text() == (tmp_path / "whole.jsonl").read_text() and not part.exists()

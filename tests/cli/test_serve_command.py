"""`molmo serve` as a program: it says where it answers, takes its key from where it is told, and ends on a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

KEY = "a-key-of-many-letters"


def start(*arguments: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """The program, and the address it tells."""
    command = [sys.executable, "-m", "olmo.cli.main", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stdout.read()
    return process, found.group()


def test_it_serves_and_ends_on_a_signal(tiny: Path) -> None:
    process, base = start(tiny, "max_rows=2", "--api-key-env", "MY_KEY", MY_KEY=KEY)
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{base}/models", timeout=60).status_code == 401
        models = httpx.get(f"{base}/models", headers=headers, timeout=60).json()
        assert [model["id"] for model in models["data"]] == [tiny.name]
        body = {"model": tiny.name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        answer = httpx.post(f"{base}/chat/completions", json=body, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_other_machines_are_let_in_with_a_key_alone(molmo, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("olmo.serve.server.Server.run", lambda self: started.append(self.config.host))
    result = molmo("serve", tiny, "--host", "0.0.0.0")
    assert result.code == 1 and "other machines can reach 0.0.0.0" in result.err and not started
    monkeypatch.setenv("MY_KEY", KEY)
    for options in (["--api-key-env", "MY_KEY"], ["--without-key"]):
        assert molmo("serve", tiny, "--host", "0.0.0.0", *options).code == 0
    assert started == ["0.0.0.0"] * 2
    assert "MY_KEY" not in os.environ, "what is started later does not inherit it"


@pytest.mark.parametrize(("options", "match"), [
    (["max_row=3"], "max_rows"), (["--api-key-env", "NO_SUCH_NAME"], "no such environment variable"),
    (["--api-key-file", "no/such/file"], "cannot read the API key"), (["--port", "99999"], "port: must be 0 to 65535"),
    (["--config", "none.yaml"], "no such configuration file"),
])  # fmt: skip
def test_wrong_options_are_named_before_the_model_is_loaded(molmo, tiny: Path, options: list[str], match: str) -> None:
    result = molmo("serve", tiny, *options)
    assert result.code == 1 and match in result.err


def test_a_missing_extra_is_named(molmo, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("olmo.serve.") and "config" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = molmo("serve", tiny)
    assert result.code == 1 and "pip install 'molmo[serve]'" in result.err


def test_limits_come_from_a_file_and_from_words(molmo, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr("olmo.serve.server.Server.run", lambda self: seen.append(self.answering.config))
    file = tmp_path / "limits.yaml"
    file.write_text("max_rows: 3\nmax_images: 2\nmodel_name: eyes\n")
    assert molmo("serve", tiny, "max_rows=5", "--config", file).code == 0
    assert molmo("serve", "max_rows=5", "--name", "mine").code == 0
    assert [(c.max_rows, c.max_images, c.model_name) for c in seen] == [(5, 2, "eyes"), (5, 8, "mine")]

"""The container files, read and not run: what they copy and mount exists, and they start the server as it can be.

No container is built here. What a build would find at its first step is found without one.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from source_tree import ROOT
from test_snippets import check_parses

from olmo.serve.serve_config import ServeConfig

DEPLOY = ROOT / "deploy"
INSTRUCTIONS = {
    *("FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "ENV", "EXPOSE"),
    *("HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"),
}


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile; lines joined at a backslash, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def last(word: str) -> str:
    return [rest for name, rest in instructions(DEPLOY / "Dockerfile") if name == word][-1]


def compose(*names: str) -> dict[str, Any]:
    """Compose files, the later on top of the earlier as far as these files need it."""
    merged: dict[str, Any] = {}
    for name in names:
        merge(merged, yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8")))
    return merged


def merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merge(below[key], value)
        else:
            below[key] = value


def test_the_dockerfile_is_well_formed() -> None:
    found = instructions(DEPLOY / "Dockerfile")
    assert {word for word, _ in found} <= INSTRUCTIONS
    words = [word for word, _ in found]
    assert words.index("ARG") < words.index("FROM") and found[0] == ("ARG", "BASE=python:3.12-slim")
    stages = {rest.split(" AS ")[1] for word, rest in found if word == "FROM" and " AS " in rest}
    for word, rest in found:
        if word == "FROM":
            assert rest.split()[0] in {"${BASE}", *stages}, "everything is built on the one base"
        elif word == "RUN":
            shlex.split(rest)  # an open quote would be an error


def test_what_is_copied_exists_and_is_let_through() -> None:
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines() if line[0] == "!"
    }
    copied: set[str] = set()
    for word, rest in instructions(DEPLOY / "Dockerfile"):
        if word == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
    assert copied == allowed
    assert not [name for name in copied if not (ROOT / name).exists()]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "README.md" in copied and 'readme = "README.md"' in text, "a build reads it"


def test_the_server_is_no_root_and_is_asked_whether_it_lives() -> None:
    assert last("USER") not in ("0", "root")
    assert int(last("EXPOSE")) == ServeConfig().port
    assert f":{ServeConfig().port}/health" in last("HEALTHCHECK")
    code = json.loads(last("HEALTHCHECK").partition("CMD ")[2])[-1]
    compile(code, "the health check", "exec")


def test_the_command_of_the_image_is_one_the_program_takes() -> None:
    words = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
    assert words[0] == "molmo"
    check_parses("deploy/Dockerfile", words[1:])


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.cuda.yaml")], ids=lambda n: n[-1])
def test_the_services_fit_together(names: tuple[str, ...]) -> None:
    found = compose(*names)
    server, prometheus = found["services"]["molmo"], found["services"]["prometheus"]
    build = server["build"]
    context = DEPLOY / build["context"]
    assert (context / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    arguments = {rest.split("=")[0] for word, rest in instructions(DEPLOY / "Dockerfile") if word == "ARG"}
    assert set(build["args"]) <= arguments
    command = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in server["command"]]
    check_parses(names[-1], ["serve", *command])
    assert f"/run/secrets/{server['secrets'][0]}" in command, "other machines reach it, so it has a key"
    assert {*server["secrets"], *prometheus["secrets"]} <= set(found["secrets"])
    volumes = [v.split(":")[0] for service in found["services"].values() for v in service["volumes"]]
    assert all(v in found["volumes"] or (DEPLOY / v).is_file() for v in volumes)
    assert all(port.startswith("127.0.0.1:") for s in found["services"].values() for port in s["ports"])
    grace = int(server["stop_grace_period"].removesuffix("s"))
    assert grace > ServeConfig().drain_timeout_s, "running answers may finish"


def test_prometheus_finds_the_figures() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    services = compose("compose.yaml")["services"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name in services and int(port) == ServeConfig().port
    assert f'"{job["metrics_path"]}"' in (ROOT / "olmo/serve/app.py").read_text(encoding="utf-8")
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{services['prometheus']['secrets'][0]}"


def test_a_broken_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text('# a comment\nFROM a AS b\nRUN one \\\n    two\nCMD ["x"]\n')
    assert instructions(file) == [("FROM", "a AS b"), ("RUN", "one two"), ("CMD", '["x"]')]

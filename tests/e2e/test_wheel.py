"""The package as others install it: sdist, a wheel made from that, and the wheel in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from untrained import ROOT

pytestmark = pytest.mark.slow

BUILD = "import sys, setuptools.build_meta as backend; backend.{hook}(sys.argv[1])"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output of a program that sees nothing of this process's paths."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MOLMO"))}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the unpacked sdist, so what the sdist lacks is lacking."""
    place = tmp_path_factory.mktemp("build")
    source, made = place / "source", place / "made"
    made.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "olmo", source / "olmo", ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", BUILD.format(hook="build_sdist"), made, cwd=source)
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    run(sys.executable, "-c", BUILD.format(hook="build_wheel"), made, cwd=place / sdist.name.removesuffix(".tar.gz"))
    (built,) = made.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`molmo` in a fresh environment: the wheel alone is installed there, its dependencies are those of the tests."""
    place = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=place)
    fresh = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    # A path in a .pth file is searched, but the .pth files in it, such as that of an editable install, are not read.
    (fresh / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return place / "bin" / "molmo"


def test_everything_in_the_package_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = wheel.parents[1] / "source"
    files = {str(p.relative_to(source)) for p in (source / "olmo").rglob("*") if p.is_file() and p.name[0] != "."}
    missing = sorted(files - names)
    assert not missing, f"not in package-data of pyproject.toml: {missing}"
    assert not [name for name in names if not name.startswith(("olmo/", "molmo-"))], "nothing else is installed"
    for name in ("LICENSE", "NOTICE"):
        assert any(n.endswith(f".dist-info/licenses/{name}") for n in names)


def test_the_demo_runs_from_an_empty_folder(program: Path, tmp_path: Path) -> None:
    out = run(program, "demo", cwd=tmp_path)
    with Image.open(tmp_path / "demo_output" / "annotated.png") as picture:
        picture.load()
    assert str(program.parents[1]) in out, "the picture, and so the package, is that of the environment"


def test_models_are_known_by_name(program: Path, tmp_path: Path) -> None:
    found = json.loads(run(program, "info", "molmo-7b-d", "--json", cwd=tmp_path))
    assert found["parameters"] > 8e9
    answer = json.loads(run(program, "ask", ROOT / "examples/pictures/scene.png", "What?", "--json", cwd=tmp_path))
    assert answer["model"] == "molmo-nano"


def test_the_doctor_knows_the_extras(program: Path, tmp_path: Path) -> None:
    found = json.loads(run(program, "doctor", "molmo-nano", "--json", cwd=tmp_path))
    assert found["needed"]["missing"] == []
    assert {"video", "serve", "quant"} <= set(found["extras"])
    assert found["devices"][0]["fits"]["molmo-nano"]["fp32"] == "yes"

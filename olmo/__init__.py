"""The Molmo family of vision-language models. This file holds the version and one check, and imports no torch.

Other distributions install a top-level `olmo` too. Where one of them sits beside this one, Python mixes the two and
fails later with errors that explain nothing, so the import stops here and says which one it is.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from olmo.exceptions import OLMoError

_DISTRIBUTION = "molmo"
_OTHER_DISTRIBUTIONS = ("ai2-olmo", "ai2-molmo")
_OTHER_FILES = ("model.py", "util.py", "train.py", "checkpoint.py", "optim.py", "version.py", "initialization.py")
"""Files that the other sources put directly under `olmo/`, and this package never does."""


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0.0.0+source"  # run from a source tree that was never installed


def _refuse_mixture() -> None:
    """Raise where another distribution's `olmo` is installed, or its files lie in this folder."""
    folder = Path(__file__).parent
    installed = [name for name in _OTHER_DISTRIBUTIONS if _is_installed(name)]
    files = [name for name in _OTHER_FILES if (folder / name).is_file()]
    if not installed and not files:
        return
    names = installed or _owners_of(files)
    named = f"distribution {' and '.join(map(repr, names))}" if names else "an unknown source"
    seen = f"; its {', '.join(files)} in {folder} is not ours" if files else ""
    first = f"run `pip uninstall {' '.join(names)}`" if names else "remove that folder"
    raise OLMoError(
        f"the import name 'olmo' is also taken by {named}{seen}. The two cannot share an environment: use a fresh "
        f"virtual environment, or {first} and install {_DISTRIBUTION} again"
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _owners_of(files: list[str]) -> list[str]:
    """Names of the installed distributions that list one of `files` under `olmo/`; asked before an error only."""
    wanted = {f"olmo/{name}" for name in files}
    owners = {d.metadata["Name"] for d in metadata.distributions() if wanted & {str(f) for f in d.files or ()}}
    return sorted(owners)


__version__ = _version()
_refuse_mixture()

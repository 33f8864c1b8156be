"""The Molmo family of vision-language models. This file holds the version and one check, and imports no torch.

Other distributions install a top-level `olmo` too. Where one of them sits beside this one, Python mixes the two and
fails later with errors that explain nothing, so the import stops here and says which one it is.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

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
    from olmo.exceptions import OLMoError

    names = installed or _owners_of(files)
    named = f"distribution {' and '.join(map(repr, names))}" if names else "an unknown source"
    seen = f"; its {', '.join(files)} in {folder} is not ours" if files else ""
    remove = " ".join(names) if names else f"the distribution that put {files[0]} there"
    raise OLMoError(
        f"the import name 'olmo' is also taken by {named}{seen}. The two cannot share an environment: run "
        f"`pip uninstall {remove}` and then `pip install --force-reinstall --no-deps {_DISTRIBUTION}`, or use a fresh "
        "virtual environment"
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _owners_of(files: list[str]) -> list[str]:
    """Names of the installed distributions that list one of `files` under `olmo/`; only asked on the way to an error."""
    wanted = {f"olmo/{name}" for name in files}
    owners = {d.metadata["Name"] for d in metadata.distributions() if wanted & {str(f) for f in d.files or ()}}
    return sorted(owners)


__version__ = _version()
_refuse_mixture()

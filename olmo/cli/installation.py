"""What of this installation is there: the packages it needs, and those of each extra. Read from its own metadata."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "molmo"

PURPOSES = {
    "video": "video files: MP4, WebM, MKV and the like",
    "serve": "molmo serve",
    "quant": "4-bit and 8-bit matrices by torchao, for GPUs",
    "lora": "training adapters",
    "qlora": "training adapters on a 4-bit base",
    "data": "Hugging Face data sets",
    "plots": "molmo plot",
    "tensorboard": "watching a run in TensorBoard",
    "wandb": "watching a run in Weights & Biases",
    "remote": "checkpoints at remote places",
    "offload": "a model over several devices, memory and disk (--device-map)",
    "ray": "molmo batch over several machines",
}
"""Extras that bring packages of their own, and what each is for. `train` and `all` are made of these."""


@dataclass(frozen=True)
class Lack:
    """A package that is not there, or not in a version that is wanted."""

    package: str
    """Name of the distribution."""

    wanted: str
    """Versions that would do, such as `>=18`; empty where any would."""

    found: str | None
    """The version that is there; None where there is none."""

    def __str__(self) -> str:
        """`av>=18`, or `av>=18 (there is 17.0)`."""
        return f"{self.package}{self.wanted}" + ("" if self.found is None else f" (there is {self.found})")


def requirements(extra: str = "") -> list[Requirement]:
    """What the installed distribution asks for.

    Args:
        extra: name of an extra; without it, what is always needed.

    Returns:
        Requirements that hold on this machine; none where the package runs from a source tree that was not installed.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    asked = [Requirement(line) for line in lines]
    always = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [r for r in asked if r not in always and r.marker is not None and r.marker.evaluate({"extra": extra})]


def lacks(extra: str = "") -> list[Lack]:
    """What is missing or too old of what an extra asks for, or of what is always needed."""
    found = []
    for requirement in requirements(extra):
        version = version_of(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found.append(Lack(requirement.name, str(requirement.specifier), version))
    return found


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None

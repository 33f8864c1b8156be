"""Where the models that ship inside the package lie. Knows nothing of how they are loaded."""

from __future__ import annotations

from pathlib import Path

from olmo.exceptions import OLMoCheckpointError

BUNDLED_MODEL = "molmo-nano"
"""Name of the bundled model that is taken where none is named."""

BUNDLED_HE_MODEL = "molmo-nano-he"
"""Name of the bundled HeMolmo."""

BUNDLED_VIDEO_MODEL = "molmo-nano-video"
"""Name of the bundled VideoOlmo, which is taken for videos where none is named."""

_FOLDERS = {BUNDLED_MODEL: "nano", BUNDLED_HE_MODEL: "nano_he", BUNDLED_VIDEO_MODEL: "nano_video"}

BUNDLED_MODELS = tuple(_FOLDERS)
"""Names of all of them."""


def is_bundled(name: str) -> bool:
    """Whether a bundled model has this name."""
    return name in _FOLDERS


def bundled_model_folder(name: str = BUNDLED_MODEL) -> Path:
    """Folder of a bundled model, a native checkpoint.

    Args:
        name: `molmo-nano`, `molmo-nano-he` or `molmo-nano-video`.

    Raises:
        OLMoCheckpointError: there is no such bundled model, or this installation came without it.
    """
    if not is_bundled(name):
        raise OLMoCheckpointError(f"{name!r} is no bundled model; there are {', '.join(BUNDLED_MODELS)}")
    folder = Path(__file__).resolve().parent / _FOLDERS[name]
    if not (folder / "config.yaml").is_file():
        raise OLMoCheckpointError(
            f"the bundled model {name} is not in this installation ({folder}); install the package again, or "
            "name a model: a folder or a hub id such as allenai/Molmo-7B-D-0924"
        )
    return folder

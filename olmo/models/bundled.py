"""Where the model that ships inside the package lies. Knows nothing of how it is loaded."""

from __future__ import annotations

from pathlib import Path

from olmo.exceptions import OLMoCheckpointError

BUNDLED_MODEL = "molmo-nano"
"""Name of the bundled model."""


def bundled_model_folder() -> Path:
    """Folder of the bundled model, a native checkpoint.

    Raises:
        OLMoCheckpointError: this installation came without it.
    """
    folder = Path(__file__).resolve().parent / "nano"
    if not (folder / "config.yaml").is_file():
        raise OLMoCheckpointError(
            f"the bundled model {BUNDLED_MODEL} is not in this installation ({folder}); install the package again, or "
            "name a model: a folder or a hub id such as allenai/Molmo-7B-D-0924"
        )
    return folder

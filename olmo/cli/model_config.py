"""The configuration of a model that is named in any of the ways a user may name one; weights are never fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

import olmo.models
from olmo.config import read_config_file
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.auto import load_config
from olmo.models.bundled import BUNDLED_MODELS, bundled_model_folder, is_bundled
from olmo.models.molmo.load import released_config
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.presets import MODEL_PRESETS, preset

_ROOT = Path(next(iter(olmo.models.__path__))).resolve().parents[1]
PRESET_FOLDERS = (_ROOT / "configs",) if (_ROOT / "pyproject.toml").is_file() else ()
"""Where configurations lie that have names: beside the package in a source tree, nowhere in an installed one."""

_CONFIG_FILES = ("config.yaml", "config.json", "preprocessor_config.json")


def find_config(model: str, overrides: Sequence[str] = ()) -> MolmoConfig:
    """The configuration of a model.

    Args:
        model: a YAML file, a model folder of either layout, the name of the bundled model or of a preset, or a hub id.
        overrides: dotted changes.

    Raises:
        OLMoError: there is nothing of this name, or it is not the configuration of a model.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return load_config(path, overrides)
    if path.is_dir():
        return _config_in(path, overrides)
    presets = preset_files()
    if file := presets.get(_normal(model)):
        return load_config(file, overrides)
    if _normal(model) in MODEL_PRESETS:
        config = preset(_normal(model))
        return type(config).from_dict(config.asdict(), overrides)
    if is_bundled(_normal(model)):
        return load_config(bundled_model_folder(_normal(model)), overrides)
    if model.count("/") != 1 or path.is_absolute():
        raise OLMoConfigurationError(
            f"{model!r} is no file, folder or preset; presets: "
            f"{', '.join(sorted({*presets, *MODEL_PRESETS, *BUNDLED_MODELS}))}. A hub id has the form owner/name"
        )
    return _config_in(_hub_folder(model), overrides)


def preset_files() -> dict[str, Path]:
    """Configuration files of the presets by name."""
    found: dict[str, Path] = {}
    for folder in PRESET_FOLDERS:
        for file in [*folder.glob("*.yaml"), *folder.glob("*/config.yaml")]:
            name = file.parent.name if file.name == "config.yaml" else file.stem
            if "llm" in read_config_file(file):  # recipes of the trainer lie beside them
                found.setdefault(_normal(name), file)
    return found


def _config_in(folder: Path, overrides: Sequence[str]) -> MolmoConfig:
    if (folder / "config.json").is_file() and not (folder / "config.yaml").is_file():
        return released_config(Molmo, folder, overrides)
    return load_config(folder, overrides)


def _hub_folder(model: str) -> Path:
    """The folder in the hub cache that holds the configuration of a repository."""
    try:
        return Path(snapshot_download(model, allow_patterns=list(_CONFIG_FILES)))
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OLMoCheckpointError(
            f"{model!r} is no file, folder or preset, and its configuration cannot be got from the hub: {reason}"
        ) from None


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")

"""Configurations and models of any variant, by the `model_name` that is written in their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olmo.config import read_config_file
from olmo.exceptions import OLMoConfigurationError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo

MODELS: dict[str, type[ModelBase]] = {"molmo": Molmo, "video_olmo": VideoOlmo}
"""Every model class by its `model_name`."""


def model_class(model_name: str) -> type[ModelBase]:
    """The class called `model_name`.

    Raises:
        OLMoConfigurationError: there is none; the message lists them.
    """
    if model_name not in MODELS:
        raise OLMoConfigurationError(f"{model_name!r} is not one of {', '.join(map(repr, MODELS))}", "model_name")
    return MODELS[model_name]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> MolmoConfig:
    """The configuration in a YAML or JSON file, or a folder with `config.yaml`, whatever variant it is of.

    Args:
        path: file or folder on this machine.
        overrides: dotted changes.

    Raises:
        OLMoConfigurationError: no such file, or it is not a configuration of a known model.
    """
    name = read_config_file(path).get("model_name", Molmo.config_class.model_name)
    return model_class(str(name)).config_class.load(path, overrides)


def from_pretrained(model: str | Path, *, revision: str | None = None, **options: Any) -> ModelBase:
    """A model of whatever variant a folder or a hub repository holds, with its weights.

    Args:
        model: folder (native or released layout) or hub id.
        revision: branch, tag or commit on the hub.
        **options: `dtype`, `device`, `overrides`, `trust_remote_code`, as in `ModelBase.from_pretrained`.

    Raises:
        OLMoCheckpointError: not found, incomplete, damaged, or of a layout that is not known.
        OLMoConfigurationError: a variant that is not known here.
    """
    folder = resolve_model_folder(model, revision=revision)
    name = Molmo.config_class.model_name  # the released layouts are all of this one
    if (folder / "config.yaml").is_file():
        name = str(read_config_file(folder).get("model_name", name))
    return model_class(name).from_pretrained(folder, **options)

"""Configurations and models of any variant, by the `model_name` that is written in their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olmo.config import read_config_file
from olmo.exceptions import OLMoConfigurationError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.load import native_config, released_config, stored_model_name
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.vision_config import ImagePooling
from olmo.preprocessing.video.video_spec import AUTO_RESOLUTION

MODELS: dict[str, type[ModelBase]] = {"molmo": Molmo, "video_olmo": VideoOlmo, "he_molmo": HeMolmo}
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


def from_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    for_video: bool = False,
    overrides: Sequence[str] = (),
    **options: Any,
) -> ModelBase:
    """A model of whatever variant a folder or a hub repository holds, with its weights.

    Args:
        model: folder (native or released layout) or hub id.
        revision: branch, tag or commit on the hub.
        for_video: load a Molmo as a VideoOlmo, whose frames are as large as the context allows; on pictures it stays
            that Molmo. Other variants are loaded as what they are.
        overrides: dotted changes of the configuration.
        **options: `dtype`, `device`, `device_map`, `quantize`, `tensor_parallel` and so on, as in
            `ModelBase.from_pretrained`.

    Raises:
        OLMoCheckpointError: not found, incomplete, damaged, or of a layout that is not known.
        OLMoConfigurationError: a variant that is not known here.
    """
    folder = resolve_model_folder(model, revision=revision)
    cls = model_class(saved_model_name(folder))
    if for_video and cls is Molmo:
        cls, overrides = VideoOlmo, [*_first_overrides(folder), *overrides]
    return cls.from_pretrained(folder, overrides=overrides, **options)


def saved_model_name(folder: str | Path) -> str:
    """The `model_name` of a model folder of either layout; what Ai2 released are all Molmos."""
    return stored_model_name(Path(folder))


def config_for_video(config: MolmoConfig) -> VideoOlmoConfig:
    """The configuration that `from_pretrained` gives a model `for_video`; that of a VideoOlmo stays as it is."""
    if isinstance(config, VideoOlmoConfig):
        return config
    return VideoOlmoConfig.from_molmo(config, **_first_video_settings(config))


def _first_video_settings(config: MolmoConfig) -> dict[str, Any]:
    """What suits a Molmo that was never set up for videos."""
    settings: dict[str, Any] = {"frame_resolution": AUTO_RESOLUTION}
    vision = config.vision_backbone
    if vision is not None and vision.image_pooling_2d is ImagePooling.stack:  # it has weights for these windows only
        settings |= {"pooling_h": vision.image_pooling_h, "pooling_w": vision.image_pooling_w}
    return settings


def _first_overrides(folder: Path) -> list[str]:
    """The same for the Molmo in a folder, as overrides."""
    is_native = (folder / "config.yaml").is_file()
    if not is_native and not (folder / "config.json").is_file():
        return []  # no model at all; loading says so
    config = native_config(Molmo, folder) if is_native else released_config(Molmo, folder)
    return [f"{name}={value}" for name, value in _first_video_settings(config).items()]

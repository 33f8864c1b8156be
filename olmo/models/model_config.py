"""`BaseModelConfig`: what the configuration of every model variant shares.

It picks the class by `model_name` and remembers the folder it was read from, which tokenizer files are named relative
to. Only variants that are imported are known here; `models/auto.py` knows them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from olmo.config import BaseConfig, read_config_file
from olmo.exceptions import OLMoConfigurationError

_RELEASED_KEYS = ("architectures", "auto_map", "hidden_size", "model_type")


@dataclass(kw_only=True)
class BaseModelConfig(BaseConfig):
    """Base of MolmoConfig and of every other model's configuration."""

    model_name: ClassVar[str] = ""
    """Written to the YAML; `load` finds the class by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._source_dir: Path | None = None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), key: str | None = None) -> Self:
        """Read YAML or JSON, or a folder with `config.yaml`; returns the class that `model_name` names.

        Args:
            path: file or folder on this machine; the network is never used.
            overrides: dotted assignments, for example `["llm.n_layers=16", "vision_backbone.image_model_type=siglip"]`.
            key: section of the file to read.

        Raises:
            OLMoConfigurationError: as `BaseConfig.load`, or the file describes a model that is not a `cls`.
        """
        values = read_config_file(path, key)
        if "llm" not in values and any(name in values for name in _RELEASED_KEYS):
            raise OLMoConfigurationError(
                f"{path} is the config.json of a released Hugging Face layout; load its folder with from_pretrained"
            )
        config = cls.from_dict(values, overrides)
        source = Path(path)
        config.source_dir = (source if source.is_dir() else source.parent).resolve()
        return config

    @classmethod
    def class_for(cls, values: Mapping[str, Any]) -> tuple[type[Self], Mapping[str, Any]]:
        """The class that `model_name` in `values` names, this one where there is none, and the other values."""
        others = dict(values)
        return cls._class_named(others.pop("model_name", cls.model_name)), others

    def asdict(self) -> dict[str, Any]:
        """Plain containers, `model_name` first."""
        return {"model_name": self.model_name, **super().asdict()}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; it keeps the folder tokenizer files are found in."""
        copy = super().replace(**changes)
        copy.source_dir = self.source_dir
        return copy

    @property
    def source_dir(self) -> Path | None:
        """Folder that relative file names in this configuration start from; None for one made in memory."""
        return self._source_dir

    @source_dir.setter
    def source_dir(self, folder: Path | None) -> None:
        self._source_dir = folder

    @classmethod
    def _class_named(cls, name: Any) -> type[Self]:
        if name == cls.model_name and name:
            return cls
        for sub in _subclasses(cls):
            if "model_name" in vars(sub) and sub.model_name == name:
                return sub
        others = {c.model_name: c for c in _subclasses(BaseModelConfig) if "model_name" in vars(c)}
        if isinstance(name, str) and name in others:
            right = others[name].__name__
            raise OLMoConfigurationError(
                f"these are the values of a {name!r} model; use {right}, not {cls.__name__}", "model_name"
            )
        raise OLMoConfigurationError(
            f"{name!r} is not one of {', '.join(map(repr, sorted(others)))}; a variant is known once its module is "
            "imported, and olmo.models.auto knows all",
            "model_name",
        )


def _subclasses(cls: type[BaseModelConfig]) -> Iterator[Any]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)

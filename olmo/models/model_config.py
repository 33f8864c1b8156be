"""`BaseModelConfig`: what the configuration of every model variant shares.

It picks the class by `model_name`, remembers the folder it was read from (tokenizer files are named relative to it) and
writes the tokenizer beside the YAML.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from olmo.config import BaseConfig, apply_overrides, build, read_config_file
from olmo.exceptions import OLMoConfigurationError


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
        config = cls.from_dict(read_config_file(path, key), overrides)
        source = Path(path)
        config._source_dir = (source if source.is_dir() else source.parent).resolve()
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """Build from plain nested containers, then apply dotted overrides."""
        named = dict(values)
        target = cls._class_named(named.pop("model_name", cls.model_name))
        config = build(target, named)
        if overrides:
            changed = apply_overrides(config.asdict(), overrides)
            changed.pop("model_name", None)
            config = build(target, changed)
        return config

    def asdict(self) -> dict[str, Any]:
        """Plain containers, `model_name` first."""
        return {"model_name": self.model_name, **super().asdict()}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again; it keeps the folder tokenizer files are found in."""
        copy = super().replace(**changes)
        copy._source_dir = self._source_dir
        return copy

    @property
    def source_dir(self) -> Path | None:
        """Folder that relative file names in this configuration start from; None for one made in memory."""
        return self._source_dir

    @source_dir.setter
    def source_dir(self, folder: Path | None) -> None:
        self._source_dir = folder

    @classmethod
    def _class_named(cls, name: str) -> type[Self]:
        known = {c.model_name: c for c in _subclasses(BaseModelConfig) if c.model_name}
        if name not in known:
            raise OLMoConfigurationError(f"{name!r} is not one of {', '.join(sorted(known))}", "model_name")
        if not issubclass(known[name], cls):
            raise OLMoConfigurationError(
                f"the file describes a {name!r} model; load it with {known[name].__name__}.load, not {cls.__name__}.load",
                "model_name",
            )
        return known[name]


def _subclasses(cls: type[BaseModelConfig]) -> Iterator[type[BaseModelConfig]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)

"""Configuration dataclasses on OmegaConf: strict keys, typed values, one clear error.

`BaseConfig` is the base of every configuration in the package. It knows how to read YAML/JSON, apply dotted overrides,
check types and name the nearest known key; it knows nothing of models. OmegaConf reads files, resolves interpolations
and applies overrides; the typed dataclasses are built here, because OmegaConf's own structured mode matches enums by
Python name, not by the documented string.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import inspect
import json
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, Union

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from olmo.exceptions import OLMoConfigurationError

C = TypeVar("C", bound="BaseConfig")


class ConfigEnum(enum.StrEnum):
    """A closed choice written as a string; `-` and `_` mean the same, case does not matter."""

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The member of this value or name; raises OLMoConfigurationError that lists the choices."""
        wanted = str(value).lower().replace("_", "-")
        for name, member in cls.__members__.items():
            if wanted in (member.value.lower().replace("_", "-"), name.lower().replace("_", "-")):
                return member
        choices = ", ".join(repr(m.value) for m in cls)
        raise OLMoConfigurationError(f"{value!r} is not one of {choices}")


@dataclass(kw_only=True)
class BaseConfig:
    """Base of all configuration dataclasses.

    Values are coerced and checked on construction, so `LlmConfig(block_type="olmoe")`, `LlmConfig.new(...)` with nested
    dicts, and a YAML file all go through the same door.

    Raises:
        OLMoConfigurationError: an unknown key, a wrong type or a value out of range, with its dotted path.
    """

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Refuse unknown keywords before the generated constructor does, which knows no nearest key."""
        _refuse_unknown(cls, values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            object.__setattr__(self, f.name, coerce(value, hints[f.name], f.name))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name) and name not in _field_names(type(self)):
            raise OLMoConfigurationError(_unknown_key(name, type(self)), name)
        object.__setattr__(self, name, value)

    @classmethod
    def new(cls, **values: Any) -> Self:
        """Build from keyword values; nested configurations may be objects or dicts."""
        return build(cls, values)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), key: str | None = None) -> Self:
        """Read a YAML or JSON file, or a folder that holds `config.yaml`.

        Args:
            path: file or folder on this machine; the network is never used.
            overrides: dotted assignments, for example `["llm.n_layers=16"]`; values are parsed as YAML.
            key: dotted path of the section to read, for files that hold more than this configuration.

        Raises:
            OLMoConfigurationError: no such file, bad YAML, unknown key, wrong type, value out of range.
        """
        return cls.from_dict(read_config_file(path, key), overrides)

    @classmethod
    def class_for(cls, values: Mapping[str, Any]) -> tuple[type[Self], Mapping[str, Any]]:
        """The class to build from `values`, and the values left for it. A base of several classes overrides this."""
        return cls, values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """Build from plain nested containers, then apply dotted overrides."""
        config = build(cls, values)
        if not overrides:
            return config
        # Overrides go onto the canonical form, so a flat spelling in the file cannot hide a nested one given here.
        return build(type(config), apply_overrides(config.asdict(), overrides))

    def asdict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, ready for YAML or JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def save(self, path: str | Path) -> None:
        """Write YAML, or JSON to a name that ends so; `load` of it gives an equal configuration."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".json":
            text = json.dumps(self.asdict(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = yaml.safe_dump(self.asdict(), sort_keys=False, allow_unicode=True)
        target.write_text(text, encoding="utf-8")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return build(type(self), {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})


def build(cls: type[C], values: Mapping[str, Any], path: str = "") -> C:
    """Construct `cls` from `values`, with strict keys and errors that carry the dotted path."""
    try:
        cls, values = cls.class_for(values)
        for f in dataclasses.fields(cls):
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and f.name not in values:
                _refuse_unknown(cls, values)  # a misspelt key is the likelier mistake
                raise OLMoConfigurationError("is required and was not given", f.name)
        return cls(**{str(k): v for k, v in values.items()})
    except OLMoConfigurationError as error:
        raise error.under(path) from None


def _refuse_unknown(cls: type, values: Mapping[str, Any]) -> None:
    known = _init_names(cls)
    for key in values:
        if key not in known:
            raise OLMoConfigurationError(_unknown_key(str(key), cls), str(key))


def coerce(value: Any, hint: Any, path: str) -> Any:
    """Return `value` as the type `hint` asks for, or raise OLMoConfigurationError naming `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            if type(None) in args:
                return None
            raise _wrong(value, hint, path)
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return coerce(value, option, path)
            except OLMoConfigurationError as error:
                errors.append(error)
        raise errors[0]
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _wrong(value, hint, path)
        return [coerce(v, args[0], f"{path}.{i}") for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, path)
        return {k: coerce(v, args[1], _join(path, str(k))) for k, v in value.items()}
    if hint is Any:
        return value
    return _coerce_scalar(value, hint, path)


def _coerce_scalar(value: Any, hint: type, path: str) -> Any:
    if issubclass(hint, BaseConfig):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return build(hint, value, path)
        raise _wrong(value, hint, path)
    if issubclass(hint, ConfigEnum):
        try:
            return hint.parse(value)
        except OLMoConfigurationError as error:
            raise error.under(path) from None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise _wrong(value, hint, path)


def read_config_file(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """Plain containers of a YAML/JSON file, or of `config.yaml` in a folder. Never the network."""
    source = Path(path)
    if source.is_dir():
        if not (source / "config.yaml").is_file():
            found = (
                "a released Hugging Face layout; load it with Molmo.from_pretrained"
                if (source / "config.json").is_file()
                else "no configuration"
            )
            raise OLMoConfigurationError(f"folder {source} has no config.yaml ({found})")
        source = source / "config.yaml"
    if not source.is_file():
        raise OLMoConfigurationError(f"no such configuration file: {source}")
    try:
        loaded = OmegaConf.load(source)
        if key is not None:
            loaded = OmegaConf.select(loaded, key)
        values = OmegaConf.to_container(loaded, resolve=True) if OmegaConf.is_config(loaded) else loaded
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise OLMoConfigurationError(f"cannot read {source}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        what = f"section {key!r} of {source}" if key else str(source)
        raise OLMoConfigurationError(f"{what} holds no mapping of keys to values")
    return {str(k): v for k, v in values.items()}


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Dotted `key=value` assignments over plain containers; list items by index (`vit_layers.0=-3`)."""
    if isinstance(overrides, str):
        raise OLMoConfigurationError(f"overrides is a list of key=value strings; write [{overrides!r}]")
    node = OmegaConf.create(dict(values))
    for item in overrides:
        name, separator, text = item.partition("=")
        if not separator or not name.strip():
            raise OLMoConfigurationError(f"override {item!r} is not of the form key=value")
        try:
            value = OmegaConf.select(OmegaConf.create(f"v: {text}" if text.strip() else "v: null"), "v")
            OmegaConf.update(node, name.strip(), value, merge=True, force_add=True)
        except (OmegaConfBaseException, yaml.YAMLError, IndexError, TypeError, ValueError) as error:
            raise OLMoConfigurationError(f"cannot apply override {item!r}: {' '.join(str(error).split())}") from None
    try:
        result = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise OLMoConfigurationError(f"cannot apply overrides: {' '.join(str(error).split())}") from None
    assert isinstance(result, dict), "overrides keep the top level a mapping"
    return {str(k): v for k, v in result.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseConfig):
        return value.asdict()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _field_names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


@functools.cache
def _init_names(cls: type) -> frozenset[str]:
    """Names the constructor takes: the fields, and the alternative spellings declared as InitVar."""
    constructor = typing.cast(Any, cls).__init__  # the generated one; BaseConfig.__new__ takes any keyword
    return frozenset(inspect.signature(constructor).parameters) - {"self"}


def _unknown_key(key: str, cls: type) -> str:
    known = sorted(_init_names(cls))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    return f"unknown key {key!r} in {cls.__name__}; {hint}"


def _wrong(value: Any, hint: Any, path: str) -> OLMoConfigurationError:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_origin(hint) else str(hint).replace("typing.", "")
    return OLMoConfigurationError(f"expected {name}, got {value!r} ({type(value).__name__})", path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

"""From a folder or a hub id to a Molmo with weights, and from a Molmo to a folder in the released layout.

Which layout a folder has is found out here; weights are streamed, so no more than a part of them is in memory twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from olmo.checkpoint.hf import load_by_rules, save_by_rules
from olmo.checkpoint.native import load_checkpoint
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.checkpoint.weight_rules import WeightRule
from olmo.config import apply_overrides, read_config_file
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.device_map import Room
from olmo.models.molmo.hf import further_names, hf_export_rules, hf_weight_rules
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from, hf_preprocessor_config_from
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.placing import Placing, Wanted
from olmo.models.quantize import quantization_config
from olmo.nn.moe import RoutedMlp
from olmo.quantization.config import QuantizationConfig
from olmo.torch_util import resolve_dtype

M = TypeVar("M", bound=ModelBase)

_PARTS_OF_MOLMO = ("llm", "vision_backbone")
_SEED_OF_NEW_PARTS = 0
_PROCESSOR_FILE = "preprocessor_config.json"
_VARIANT = "olmo_config"
"""Field of `config.json` with the whole configuration of a variant, of which the released schema has a part."""


def load_molmo(
    cls: type[M],
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    quantize: str | QuantizationConfig | None = None,
    room: Room | None = None,
    tensor_parallel: bool = False,
) -> M:
    """See `ModelBase.from_pretrained`. The model is built without memory and each tensor is made as it is read.

    Raises:
        OLMoCheckpointError: not found, incomplete, damaged, or of a layout that is not known.
        OLMoConfigurationError: quantised already, or it cannot be quantised so.
    """
    folder = resolve_model_folder(model, revision=revision)
    wanted = resolve_dtype(dtype)
    is_native = (folder / "config.yaml").is_file()
    if not is_native and not (folder / "config.json").is_file():
        raise OLMoCheckpointError(
            f"{folder} holds neither config.yaml (this package's layout) nor config.json (released layout); "
            "an original release with model.pt is turned into a folder by `molmo convert`"
        )
    config = native_config(cls, folder, overrides) if is_native else released_config(cls, folder, overrides)
    saved = _saved_quantization(folder) if is_native else None
    if quantize is not None:
        _refuse_twice(folder, saved)
        config = config.replace(quantization=quantization_config(quantize, device if room is None else room.kind))
    elif saved is not None and config.quantization != saved:
        raise OLMoConfigurationError(f"{folder} was saved as {saved.scheme} and loads as nothing else", "quantization")
    placing = Placing(cls, config, Wanted(wanted, device, room, tensor_parallel, saved is not None))
    instance = placing.model
    # A variant that starts from a Molmo: what a Molmo has not is drawn anew.
    new = _taken_out(instance) if _is_molmo(folder) else {}
    unbiased = [] if is_native and _has_router_bias(folder) else _without_router_bias(instance)
    going: dict[str, Any] = {"dtype": wanted, "device": placing.place, "wide": placing.wide()}
    if is_native:
        load_checkpoint(instance, folder, **going, passed_over=instance.unread_weights())
    else:
        source, rules = SafetensorsSource(folder), hf_weight_rules(config)
        rules += [WeightRule(ours, (theirs,)) for ours, theirs in further_names(instance.state_dict())]
        load_by_rules(instance, source, rules, **going)
    generator = torch.Generator().manual_seed(_SEED_OF_NEW_PARTS)
    for name, part in new.items():
        part.to_empty(device="cpu").reset_parameters(generator)
        setattr(instance, name, part.to(placing.device, instance.dtype))
    for routed in unbiased:
        routed.selection_bias = torch.zeros(routed.n_experts)
    return placing.finish()


def _saved_quantization(folder: Path) -> QuantizationConfig | None:
    """How the weights in a native folder are quantised."""
    values = read_config_file(folder).get("quantization")
    return None if values is None else QuantizationConfig.new(**values)


def _refuse_twice(folder: Path, saved: QuantizationConfig | None) -> None:
    if saved is not None:
        raise OLMoConfigurationError(
            f"{folder} is quantised already ({saved.scheme}); load it without quantize=, or take the model it "
            "was made of"
        )


def native_config(cls: type[ModelBase], folder: Path, overrides: Sequence[str] = ()) -> MolmoConfig:
    """The configuration of a folder in this package's layout, for a model of class `cls`; a Molmo may become any.

    Raises:
        OLMoConfigurationError: the file is damaged, or the model is of another kind.
    """
    if cls.config_class is MolmoConfig or not _is_molmo(folder):
        return cls.config_class.load(folder, overrides)
    config = _of_molmo(cls, read_config_file(folder), overrides)
    config.source_dir = folder.resolve()
    return config


def _of_molmo(cls: type[ModelBase], values: Mapping[str, Any], overrides: Sequence[str]) -> MolmoConfig:
    """The configuration of a Molmo as one of `cls`, which may hold together only with the overrides."""
    plain = MolmoConfig.from_dict(values).asdict()
    plain.pop("model_name")
    return cls.config_class.from_dict(apply_overrides(plain, overrides))


def _has_router_bias(folder: Path) -> bool:
    """Whether the routers of a native folder were balanced by a bias, which then lies there."""
    return bool(read_config_file(folder).get("llm", {}).get("router_bias_rate", 0.0))


def _without_router_bias(model: ModelBase) -> list[RoutedMlp]:
    """Leave out the biases of routers, which start from 0 where weights were saved without; returns these routers."""
    found = [m for m in model.modules() if isinstance(m, RoutedMlp) and m.selection_bias is not None]
    for routed in found:
        routed.selection_bias = None
    return found


def _is_molmo(folder: Path) -> bool:
    return stored_model_name(folder) == MolmoConfig.model_name


def stored_model_name(folder: Path) -> str:
    """The `model_name` of a model folder of either layout; a folder without a configuration counts as a Molmo's.

    Raises:
        OLMoCheckpointError: `config.json` is damaged.
        OLMoConfigurationError: `config.yaml` is.
    """
    if (folder / "config.yaml").is_file():
        values: Mapping[str, Any] = read_config_file(folder)
    elif (folder / "config.json").is_file():
        values = _read_json(folder / "config.json").get(_VARIANT) or {}
    else:
        values = {}
    return str(values.get("model_name", MolmoConfig.model_name))


def _taken_out(model: ModelBase) -> dict[str, Any]:
    """The parts of a model that no Molmo has, which it is without afterwards."""
    names = [name for name, _ in model.named_children() if name not in _PARTS_OF_MOLMO]
    parts = {name: getattr(model, name) for name in names}
    for name in names:
        setattr(model, name, None)
    return parts


def released_config(cls: type[ModelBase], folder: Path, overrides: Sequence[str] = ()) -> MolmoConfig:
    """The configuration of a folder in a released Hugging Face layout, for a model of class `cls`.

    Raises:
        OLMoCheckpointError: a file is damaged, or the model is of another kind.
    """
    processor, released = folder / _PROCESSOR_FILE, _read_json(folder / "config.json")
    variant = released.get(_VARIANT)
    if variant is not None and cls.config_class is not MolmoConfig:
        config = cls.config_class.from_dict(variant, overrides)
        config.source_dir = folder.resolve()
        return config
    values = config_values_from_hf(released, _read_json(processor) if processor.is_file() else None)
    if cls.config_class is MolmoConfig:
        config = MolmoConfig.from_dict(values, overrides)
    else:
        config = _of_molmo(cls, values, overrides)
    config.source_dir = folder.resolve()
    return config


def save_molmo(
    model: ModelBase,
    path: str | Path,
    further_config: Mapping[str, Any] | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """See `ModelBase.save_pretrained_hf`. Of a variant all of its parts are written, those that no Molmo has as well.

    Args:
        model: what to write.
        path: folder.
        further_config: fields to set in `config.json`.
        write_more: is called with the folder once the files of the tokenizer are in it.

    Raises:
        OLMoCheckpointError: the released layout has no place for something in this model, or the folder holds files
            that are not part of a published model.
    """
    if model.spread is not None:
        raise OLMoCheckpointError(f"the model {model.spread}; load it on one device to write it")
    if model.config.quantization is not None:
        raise OLMoCheckpointError(
            "the released layout has no place for quantised matrices; save_checkpoint has, or write the full-precision "
            "model"
        )
    processor = hf_preprocessor_config_from(model.config)

    def write_extra(folder: Path) -> None:
        if processor is not None:
            (folder / _PROCESSOR_FILE).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        with contextlib.suppress(OLMoConfigurationError):  # weights without a tokenizer at hand are still weights
            model.tokenizer.save(folder)
        if write_more is not None:
            write_more(folder)

    config_json = hf_config_from(model.config, str(model.dtype).removeprefix("torch.")) | dict(further_config or {})
    rules = hf_export_rules(model.config)
    rules += [WeightRule(theirs, (ours,)) for ours, theirs in further_names(model.state_dict())]
    if model.config.model_name != MolmoConfig.model_name:
        config_json[_VARIANT] = model.config.asdict()
    save_by_rules(model, rules, path, config_json, write_extra)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise OLMoCheckpointError(f"cannot read {file}: {error}; download it again") from None
    return values

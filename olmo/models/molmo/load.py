"""From a folder or a hub id to a Molmo with weights, and from a Molmo to a folder in the released layout.

Which layout a folder has is found out here; weights are streamed, so no more than a part of them is in memory twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from olmo.checkpoint.hf import load_by_rules, save_by_rules
from olmo.checkpoint.native import load_checkpoint
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.molmo.hf import hf_export_rules, hf_weight_rules
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from, hf_preprocessor_config_from
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.torch_util import resolve_dtype

M = TypeVar("M", bound=ModelBase)

_PROCESSOR_FILE = "preprocessor_config.json"


def load_molmo(
    cls: type[M],
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
) -> M:
    """See `ModelBase.from_pretrained`. The model is built without memory and each tensor is made as it is read.

    Raises:
        OLMoCheckpointError: not found, incomplete, damaged, or of a layout that is not known.
    """
    folder = resolve_model_folder(model, revision=revision)
    wanted = resolve_dtype(dtype)
    is_native = (folder / "config.yaml").is_file()
    if not is_native and not (folder / "config.json").is_file():
        raise OLMoCheckpointError(
            f"{folder} holds neither config.yaml (this package's layout) nor config.json (released layout); "
            "an original release with model.pt is turned into a folder by `molmo convert`"
        )
    config = cls.config_class.load(folder, overrides) if is_native else released_config(cls, folder, overrides)
    with torch.device("meta"):
        instance = cls(config)
    if is_native:
        load_checkpoint(instance, folder, dtype=wanted, device=device)
    else:
        load_by_rules(instance, SafetensorsSource(folder), hf_weight_rules(config), dtype=wanted, device=device)
    return instance.to(device).eval()


def released_config(cls: type[ModelBase], folder: Path, overrides: Sequence[str] = ()) -> MolmoConfig:
    """The configuration of a folder in a released Hugging Face layout, for a model of class `cls`.

    Raises:
        OLMoCheckpointError: a file is damaged, or the model is of another kind.
    """
    processor = folder / _PROCESSOR_FILE
    values = config_values_from_hf(
        _read_json(folder / "config.json"), _read_json(processor) if processor.is_file() else None
    )
    config = cls.config_class.from_dict(values, overrides)
    config.source_dir = folder.resolve()
    return config


def save_molmo(model: ModelBase, path: str | Path) -> None:
    """See `ModelBase.save_pretrained_hf`.

    Raises:
        OLMoCheckpointError: the released layout has no place for something in this model, or the folder holds files
            that are not part of a published model.
    """
    processor = hf_preprocessor_config_from(model.config)

    def write_extra(folder: Path) -> None:
        if processor is not None:
            (folder / _PROCESSOR_FILE).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        with contextlib.suppress(OLMoConfigurationError):  # weights without a tokenizer at hand are still weights
            model.tokenizer.save(folder)

    config_json = hf_config_from(model.config, str(model.dtype).removeprefix("torch."))
    save_by_rules(model, hf_export_rules(model.config), path, config_json, write_extra)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise OLMoCheckpointError(f"cannot read {file}: {error}; download it again") from None
    return values

"""From a folder or a hub id to a Molmo with weights: finds out which layout it is and streams it in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from olmo.checkpoint.hf import load_by_rules
from olmo.checkpoint.native import load_checkpoint
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.exceptions import OLMoCheckpointError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.molmo.hf import hf_weight_rules
from olmo.models.molmo.hf_config import config_values_from_hf
from olmo.torch_util import resolve_dtype

M = TypeVar("M", bound=ModelBase)


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
    wanted = resolve_dtype("float32" if dtype is None else dtype)
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
        source = SafetensorsSource(folder)
        load_by_rules(instance, source, hf_weight_rules(config), dtype=wanted, device=device)
    return instance.to(device).eval()


def released_config(cls: type[M], folder: Path, overrides: Sequence[str] = ()):  # type: ignore[no-untyped-def]
    """The configuration of a folder in a released Hugging Face layout."""
    try:
        hf = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        processor_file = folder / "preprocessor_config.json"
        processor = json.loads(processor_file.read_text(encoding="utf-8")) if processor_file.is_file() else None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, SafetensorError) as error:
        raise OLMoCheckpointError(f"cannot read the configuration in {folder}: {error}; download it again") from None
    config = cls.config_class.from_dict(config_values_from_hf(hf, processor), overrides)
    config.source_dir = folder.resolve()
    return config

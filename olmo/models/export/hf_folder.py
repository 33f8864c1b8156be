"""`export_hf`: a folder that the loaders of other engines accept, in the layout of the released models.

Beside what `save_pretrained_hf` writes there are the chat template, the ids that end an answer, and the code of the
processor, which `transformers` and vLLM run with `trust_remote_code`. That code was written for this project and is
in `hub_code`; it is copied as it is.
"""

from __future__ import annotations

import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.export.chat_template import chat_template
from olmo.models.export.engines import processor_obstacles
from olmo.models.molmo.hf_config import config_values_from_hf, hf_config_from, hf_preprocessor_config_from
from olmo.models.molmo.load import save_molmo
from olmo.models.molmo.molmo_config import MolmoConfig

CONFIG_CODE = "config_molmo.py"
PROCESSOR_CODE = ("image_preprocessing_molmo.py", "preprocessing_molmo.py")
HUB_CODE = (CONFIG_CODE, *PROCESSOR_CODE)
"""Files of code in an exported folder, under the names of the released ones."""

ARCHITECTURES = {"video_olmo": "VideoOlmoForCausalLM", "he_molmo": "HeMolmoForCausalLM"}
"""What `architectures` in `config.json` says of variants, for which nobody has released a layout."""

_CONFIG_CLASS = {"AutoConfig": "config_molmo.MolmoConfig"}
_PROCESSOR_CLASSES = {
    "AutoProcessor": "preprocessing_molmo.MolmoProcessor",
    "AutoImageProcessor": "image_preprocessing_molmo.MolmoImageProcessor",
}


def export_hf(model: ModelBase, path: str | Path) -> None:
    """Write a model for `transformers` and vLLM; `from_pretrained` of the folder gives equal bits.

    A variant (VideoOlmo, HeMolmo) is written whole, under an architecture of its own.

    Args:
        model: what to write, in full precision.
        path: folder; a published model that was there stays until the new one is complete.

    Raises:
        OLMoCheckpointError: the layout has no place for something in this model, the tokenizer is not at hand, or the
            folder holds files that are not part of a published model.
    """
    try:
        tokenizer = model.tokenizer
    except OLMoConfigurationError as error:
        raise OLMoCheckpointError(f"an engine needs the tokenizer: {error}") from None
    _require_readable(model.config)
    without = processor_obstacles(model.config)
    if without:
        warnings.warn(f"exported without the code of a processor: {'; '.join(without)}", stacklevel=2)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def write_more(folder: Path) -> None:
        _write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
        _change_json(folder / "tokenizer_config.json", {"chat_template": chat_template(model.config.data_formatter)})
        _copy_code(folder, HUB_CODE if not without else (CONFIG_CODE,))
        if not without:
            classes = {"auto_map": _PROCESSOR_CLASSES, "processor_class": "MolmoProcessor"}
            legacy = model.config.mm_preprocessor.legacy_image_mask
            _change_json(folder / "preprocessor_config.json", {**classes, "legacy_image_mask": legacy})
            _write_json(folder / "processor_config.json", classes)

    save_molmo(model, path, _further_config(model.config), write_more)


def _require_readable(config: MolmoConfig) -> None:
    """Raise OLMoCheckpointError where the schema has no words for this model, or words that it cannot be read from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are given when it is written
        config_values_from_hf(hf_config_from(config), hf_preprocessor_config_from(config))


def _further_config(config: MolmoConfig) -> dict[str, Any]:
    further: dict[str, Any] = {"auto_map": _CONFIG_CLASS}
    if config.model_name in ARCHITECTURES:
        further["architectures"] = [ARCHITECTURES[config.model_name]]
    return further


def _copy_code(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        code = (resources.files("olmo.models.export") / "hub_code" / name).read_text(encoding="utf-8")
        (folder / name).write_text(code, encoding="utf-8")


def _change_json(file: Path, changes: dict[str, Any]) -> None:
    _write_json(file, json.loads(file.read_text(encoding="utf-8")) | changes)


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

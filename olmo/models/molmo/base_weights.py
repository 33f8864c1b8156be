"""A Molmo's start from a published language model and a published picture encoder.

The connector and the added vocabulary keep their random initialisation: no published model has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from olmo.checkpoint.hf import compare_by_rules, load_by_rules
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.checkpoint.weight_rules import WeightRule
from olmo.exceptions import OLMoCheckpointError
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.molmo.base_llm import llm_weight_rules
from olmo.models.molmo.base_vit import vit_weight_rules

_NEW_PARAMETERS = ("wte.new_embedding",)


def load_llm_and_vit(model: ModelBase, llm: str | Path | None = None, vit: str | Path | None = None) -> None:
    """Fill the language model and the picture encoder of a model with published weights.

    Everything is compared before anything is changed.

    Args:
        model: model with random weights, of sizes that fit the published ones.
        llm: folder or hub id of a language model; None leaves that part alone.
        vit: folder or hub id of a picture encoder; None leaves that part alone.

    Raises:
        OLMoCheckpointError: not found, incomplete, or of another size than the model.
    """
    parts: list[tuple[nn.Module, SafetensorsSource, list[WeightRule]]] = []
    if llm is not None:
        folder = resolve_model_folder(llm)
        rules = llm_weight_rules(read_json(folder / "config.json"), model.config.llm)
        parts.append((model.llm, SafetensorsSource(folder), rules))
    if vit is not None:
        if model.vision_backbone is None or model.config.vision_backbone is None:
            raise OLMoCheckpointError("the model has no vision backbone to load a picture encoder into; leave vit out")
        folder = resolve_model_folder(vit)
        source = SafetensorsSource(folder)
        rules = vit_weight_rules(read_json(folder / "config.json"), model.config.vision_backbone.vit, source.names())
        parts.append((model.vision_backbone.image_vit, source, rules))
    for part in parts:
        _require_fit(*part)
    for module, source, rules in parts:
        load_by_rules(module, source, rules, strict=False)


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object.

    Raises:
        OLMoCheckpointError: no such file, or not JSON.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OLMoCheckpointError(f"{file} is missing; download the model again") from None
    except (OSError, ValueError) as error:
        raise OLMoCheckpointError(f"{file} cannot be read ({error}); download it again") from None
    if not isinstance(content, dict):
        raise OLMoCheckpointError(f"{file} holds no JSON object; download it again")
    return content


def _require_fit(module: nn.Module, source: SafetensorsSource, rules: Sequence[WeightRule]) -> None:
    """Raise where a tensor of the module is not covered. Published tensors without a use (text towers) are fine."""
    report = compare_by_rules(module, source, rules)
    missing = tuple(name for name in report.missing if name not in _NEW_PARAMETERS)
    type(report)(missing=missing, mismatched=report.mismatched).require_clean(source.location)

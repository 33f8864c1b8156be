"""The weights that a run starts from, or that it imitates."""

from __future__ import annotations

from pathlib import Path

from olmo.checkpoint.hf import load_by_rules
from olmo.checkpoint.native import LoadReport
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.io import resolve_model_folder
from olmo.models.base import ModelBase
from olmo.models.bundled import bundled_model_folder, is_bundled
from olmo.models.molmo.hf import hf_weight_rules


def start_folder(name: str) -> Path:
    """The folder of the weights that a run starts from.

    Args:
        name: a folder, a hub id, or the name of a bundled model. A folder of that name wins.

    Raises:
        OLMoCheckpointError: there is nothing of this name.
    """
    if is_bundled(name) and not Path(name).is_dir():
        return bundled_model_folder(name)
    return resolve_model_folder(name)


def fill(model: ModelBase, source: str) -> tuple[str, ...]:
    """Load weights of the released layout, or of this package's, which may be of a part of the model.

    Args:
        model: what gets them.
        source: as for `start_folder`.

    Returns:
        Names of the weights that `source` does not have.

    Raises:
        OLMoCheckpointError: there is nothing of this name, or it does not fit.
    """
    folder = start_folder(source)
    if (folder / "config.json").is_file() and not (folder / "config.yaml").is_file():
        load_by_rules(model, SafetensorsSource(folder), hf_weight_rules(model.config))
        return ()
    report = model.load_checkpoint(folder, strict=False)
    LoadReport(unexpected=report.unexpected, mismatched=report.mismatched).require_clean(folder)
    return tuple(report.missing)

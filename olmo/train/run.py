"""From a recipe to a finished run: read the configuration, build model and task, train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.train.language import LanguageTask
from olmo.train.patch_naming import PatchNamingTask
from olmo.train.train_config import TrainConfig, TrainTaskName
from olmo.train.trainer import Trainer, TrainTask

TASKS: dict[TrainTaskName, type[PatchNamingTask] | type[LanguageTask]] = {
    TrainTaskName.patch_naming: PatchNamingTask,
    TrainTaskName.language: LanguageTask,
}


def build_trainer(recipe: str | Path, overrides: Sequence[str] = ()) -> Trainer:
    """A trainer for a recipe file; it resumes where an earlier run in the same folder stopped.

    Args:
        recipe: YAML file of a `TrainConfig`.
        overrides: dotted assignments, for example `["max_steps=100"]`.
    """
    config = TrainConfig.load(recipe, overrides)
    model = Molmo(MolmoConfig.load(Path(recipe).parent / config.model), seed=config.seed)
    if config.init_from is not None:
        model.load_checkpoint(config.init_from, strict=False)
    task: TrainTask = TASKS[config.task](config, model)
    return Trainer(config, task)

"""From a recipe to a trainer: read the configuration, build the model with its first weights, and the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmo.io import resolve_model_folder
from olmo.models.auto import from_pretrained, model_class
from olmo.models.base import ModelBase
from olmo.models.molmo.base_weights import load_llm_and_vit
from olmo.models.molmo.load import released_config
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.train.first_weights import fill, start_folder
from olmo.train.lora.adapters import apply_lora
from olmo.train.parallel.processes import init_parallel
from olmo.train.tasks.grounding import GroundedLanguageTask
from olmo.train.tasks.language import LanguageTask
from olmo.train.tasks.patch_naming import PatchNamingTask
from olmo.train.tasks.selected_language import SelectedLanguageTask
from olmo.train.train_config import TrainConfig, TrainTaskName
from olmo.train.trainer import Trainer

TASKS: dict[TrainTaskName, type[PatchNamingTask] | type[LanguageTask]] = {
    TrainTaskName.patch_naming: PatchNamingTask,
    TrainTaskName.language: LanguageTask,
    TrainTaskName.grounded_language: GroundedLanguageTask,
    TrainTaskName.selected_language: SelectedLanguageTask,
}


def build_trainer(recipe: str | Path, overrides: Sequence[str] = (), allow_changes: Sequence[str] = ()) -> Trainer:
    """A trainer for a recipe file; its `fit` resumes where an earlier run in the same folder stopped.

    Args:
        recipe: YAML file of a `TrainConfig`.
        overrides: dotted assignments, for example `["max_steps=100"]`.
        allow_changes: dotted keys of the recipe that may differ from those of the run that is resumed.
    """
    config = TrainConfig.load(recipe, overrides)
    parallel = init_parallel(config.parallel)
    base_dir = Path(recipe).parent
    model = build_model(config, base_dir)
    return Trainer(config, TASKS[config.task](config, model, base_dir), parallel, allow_changes)


def build_model(config: TrainConfig, base_dir: Path) -> ModelBase:
    """The model, of the class that its configuration names, with the weights that the run starts from.

    Args:
        config: the recipe.
        base_dir: folder of the recipe, where `model` is found.

    Raises:
        OLMoConfigurationError: no such configuration.
        OLMoCheckpointError: weights that are missing, damaged or of another shape.
    """
    if config.model is None:
        assert config.init_from is not None, "checked at construction"
        model = from_pretrained(start_folder(config.init_from), overrides=config.model_overrides)
    else:
        first = first_config(config, base_dir)
        model = model_class(first.model_name)(first, seed=config.seed)
        if config.init_from is not None:
            fill(model, config.init_from)
        elif config.init_llm or config.init_vit:
            load_llm_and_vit(model, config.init_llm, config.init_vit)
    if config.lora is not None:
        apply_lora(model, config.lora, seed=config.seed)
    return model


def first_config(config: TrainConfig, base_dir: Path) -> MolmoConfig:
    """The configuration of the model that a recipe trains; without a tokenizer of its own it gets that of `init_llm`.

    Args:
        config: the recipe.
        base_dir: folder of the recipe, where `model` is found.
    """
    if config.model is not None:
        model = MolmoConfig.load(base_dir / config.model, config.model_overrides)
        if config.init_llm is not None and model.llm.tokenizer.identifier is None:
            folder = resolve_model_folder(config.init_llm).absolute()  # the tokenizer comes with the language model
            model.llm = model.llm.replace(tokenizer=model.llm.tokenizer.replace(identifier=str(folder)))
        return model
    assert config.init_from is not None, "checked at construction"
    folder = start_folder(config.init_from)
    if (folder / "config.yaml").is_file():
        return MolmoConfig.load(folder, config.model_overrides)
    return released_config(Molmo, folder, config.model_overrides)

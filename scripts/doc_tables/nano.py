"""molmo-nano and its kin: what they are made of, how they were trained, how well they answer."""

from __future__ import annotations

import re
from typing import Any

from doc_tables.cells import ROOT, percent, result, shown, size, table
from doc_tables.models import NANO_CONFIG, nano_config
from olmo.data.scenes.art import ConceptSet, concepts
from olmo.data.scenes.signs import WORDS
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.info import model_info
from olmo.train.optim.adamw import component_configs
from olmo.train.train_config import TrainConfig, TrainTaskName

NANO_MODELS = (BUNDLED_MODEL, NANO_CONFIG.name, "molmo-nano-frames")
"""Configurations that the bundled model had, first to last."""

RECIPES = ROOT / "configs"
NOT_MEASURED = "Not measured yet: `make eval-nano` writes the figures that this table is made from."

_STAGE = re.compile(r"# Stage (\d+) of molmo-nano:")


def nano_sizes() -> str:
    """What molmo-nano is made of."""
    config, info = nano_config(), model_info(nano_config())
    assert config.vision_backbone is not None and config.image_spec is not None, "nano sees pictures"
    vit, llm = config.vision_backbone.vit.spec, config.llm
    parts = ", ".join(f"{name} {size(n)}" for name, n in info.n_params_by_part.items())
    rows = [
        ("Parameters", f"{size(info.n_params)} ({parts})"),
        ("Picture encoder", f"{vit.n_layers} layers of width {vit.d_model}, {vit.n_heads} heads"),
        ("Picture", f"{vit.image_size} x {vit.image_size} px, one token for each of {vit.n_patches} patches"),
        ("Language model", f"{llm.n_layers} layers of width {llm.d_model}, {llm.n_heads} heads"),
        ("Vocabulary", f"{llm.vocab_size} tokens and {llm.additional_vocab_size} extra rows"),
        ("Context", f"{llm.max_sequence_length} tokens"),
        ("Knows", f"{len(concepts(ConceptSet.wide))} kinds of things, {len(WORDS)} words on signs"),
    ]
    return table(("Part", "Size"), rows)


def nano_recipes() -> list[tuple[str, TrainConfig]]:
    """File name and content of every recipe of molmo-nano, in the order of the stages that their first lines name."""
    by_stage: dict[int, tuple[str, TrainConfig]] = {}
    for path in RECIPES.glob("nano*.yaml"):
        recipe, stage = TrainConfig.load(path), _STAGE.match(path.read_text(encoding="utf-8"))
        if recipe.model in NANO_MODELS:
            assert stage, f"{path.name} does not begin with '# Stage N of molmo-nano: ...'"
            assert int(stage[1]) not in by_stage, f"{path.name} and another recipe both are stage {stage[1]}"
            by_stage[int(stage[1])] = path.name, recipe
    return [by_stage[stage] for stage in sorted(by_stage)]


def nano_training() -> str:
    """The stages of its training, from the recipes."""
    rows = [
        (f"`configs/{name}`", str(r.max_steps), f"{r.max_steps * r.batch_size:,}", r.task.value, trained_parts(r))
        for name, r in nano_recipes()
    ]
    return table(("Recipe", "Steps", "Examples", "Task", "Learns"), rows)


def trained_parts(recipe: TrainConfig) -> str:
    """Parts of the model that a recipe changes."""
    if recipe.task is TrainTaskName.patch_naming:
        return "picture encoder"
    names = {"connector": "connector", "vit": "picture encoder", "llm": "language model"}
    parts = component_configs(recipe.optimizer)
    return ", ".join(name for key, name in names.items() if not parts[key].is_frozen)


def nano_results() -> str:
    """Accuracy by task beside the same model's without the picture."""
    if (found := result("nano")) is None:
        return NOT_MEASURED
    hardware = found["hardware"]
    source = (
        f"{found['n_scenes']} scenes from unseen seeds, greedy decoding. Measured on {hardware['device']} "
        f"({hardware['cpu']}, {hardware['threads']} threads) with torch {found['versions']['torch']}; "
        "source: `benchmarks/results/nano.json`."
    )
    text = f"{tasks_table(found)}\n\n{source}"
    if "art" in found:
        art = found["art"]
        text += f"\n\n{art['n_scenes']} scenes in art it was never trained on (`{art['sheet']}`):\n\n{tasks_table(art)}"
    return text


def tasks_table(found: dict[str, Any]) -> str:
    """A row for each task, and for the F1 of its points where a result has them."""
    header = ("Task", "Questions", "Right", "95 % interval", "Picture replaced by grey")
    rows = [(shown(name), *task_cells(entry)) for name, entry in found["tasks"].items()]
    rows += [(f"{shown(name)}, F1", *task_cells(entry)) for name, entry in found.get("points", {}).items()]
    return table(header, rows)


def clip_results() -> str:
    """Accuracy about clips by task, beside the same model's with grey frames and with shuffled ones."""
    found = result("nano_video")
    assert found is not None, "benchmarks/nano_video.py --save measures it"
    clip, *others = (found["views"][view]["tasks"] for view in ("clip", "grey", "shuffled"))
    header = ("Task", "Questions", "Right", "95 % interval", "All frames grey", "Frames shuffled", "Goal")
    rows = []
    for name, entry in clip.items():
        beside = (percent(tasks[name]["accuracy"]) for tasks in others)
        rows.append((shown(name), *task_cells(entry)[:3], *beside, percent(found["floors"].get(name))))
    return table(header, rows)


def task_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    """Number of questions, accuracy or F1, interval and blind figure of one task."""
    low, high = entry["interval"]
    return (
        str(entry["n"]),
        percent(entry.get("accuracy", entry.get("f1"))),
        f"{percent(low)} to {percent(high)}",
        percent(entry.get("blind")),
    )

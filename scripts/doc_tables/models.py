"""Sizes, memory and arithmetic of the models, counted on models without memory."""

from __future__ import annotations

from functools import cache

from doc_tables.cells import ROOT, gibibytes, percent, result, size, table
from olmo.models.auto import model_class
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.fits import needed_bytes
from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.info import ModelInfo, model_info
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import MODEL_PRESETS, preset
from olmo.nn.llm_presets import LLM_PRESETS

NANO_CONFIG = ROOT / "configs" / "molmo-nano-wide"
CHOOSING_PICTURE, CHOOSING_TEXT = (1024, 1024), 64
"""Picture, width and height in pixels, and tokens of text that operations are told for."""

NOT_RUN = "weights not run here"

_LAYOUT_TESTED = "released layout tested on golden vectors; the real weights were not run here"
MODELS: tuple[tuple[str, str, str], ...] = (
    ("Molmo-1B", "olmo_1b", "never released; a configuration to train"),
    ("Molmo-7B-D", "qwen2_7b", _LAYOUT_TESTED),
    ("Molmo-7B-O", "olmo_7b_1024", _LAYOUT_TESTED),
    ("Molmo-72B", "qwen2_72b", "same layout as 7B-D; the real weights were not run here"),
    ("MolmoE-1B", "olmoe_1b_7b", _LAYOUT_TESTED),
)
"""Name, language model in `LLM_PRESETS`, and what is known of it."""


@cache
def nano_config() -> MolmoConfig:
    """Configuration of the bundled model."""
    return MolmoConfig.load(NANO_CONFIG)


def models_table() -> str:
    """Parameters and memory of every preset."""
    header = ("Model", "Language model", "Parameters", "Active", "Weights in bf16", "State")
    infos: list[tuple[str, str, ModelInfo, str]] = [
        ("molmo-nano", "own, 4 layers", model_info(nano_config()), "ships with the package")
    ]
    infos += [(n, f"`{llm}`", model_info(MolmoConfig.new(llm=LLM_PRESETS[llm])), s) for n, llm, s in MODELS]
    rows = [
        (name, llm, size(i.n_params), size(i.n_active_params), gibibytes(i.memory["bf16"].weights_bytes), state)
        for name, llm, i, state in infos
    ]
    return table(header, rows)


def compared() -> str:
    """Models of the documents' table, by counts."""
    header = ("Model", "Parameters", "Active", "Weights in bf16", "First token", "Further token", "Quality")
    measured = result("model_table")
    assert measured is not None, "benchmarks/model_table.py --save counts it"
    found = measured["rows"]
    sizes = [(r["case"], size(r["n_params"]), size(r["n_active"]), gibibytes(r["weights_bytes"])) for r in found]
    speeds = [(f"{r['first_token_speed']:.2g}x", f"{r['further_token_speed']:.2g}x") for r in found]
    return table(header, [(*a, *b, str(r["quality"] or "-")) for a, b, r in zip(sizes, speeds, found, strict=True)])


def choosing_table() -> str:
    """The family: sizes, memory to answer, arithmetic of one question about one picture, and what was measured."""
    header = ("Model", "Parameters", "Active", "fp32", "bf16", "int8", "Operations", "Measured here")
    rows = [choosing_row(BUNDLED_MODEL, nano_config(), measured_nano())]
    rows += [choosing_row(name, preset(name), NOT_RUN) for name in MODEL_PRESETS]
    width, height = CHOOSING_PICTURE
    source = (
        "Memory: weights, cache of one full context, a tenth on top (`molmo doctor`). Operations: reading one picture "
        f"of {width} x {height} px and {CHOOSING_TEXT} tokens of text, before the first new token. Both are arithmetic."
    )
    return f"{table(header, rows)}\n\n{source}"


def choosing_row(name: str, config: MolmoConfig, measured: str) -> tuple[str, ...]:
    """What a model needs and costs."""
    info = model_info(config, model_class(config.model_name))
    needs = needed_bytes(info)
    cost = prompt_cost(config, *CHOOSING_PICTURE, n_text_tokens=CHOOSING_TEXT)
    memory = (gibibytes(needs[form]) for form in ("fp32", "bf16", "int8"))
    return (name, size(info.n_params), size(info.n_active_params), *memory, f"{cost.total / 1e12:.3g} T", measured)


def measured_nano() -> str:
    """Accuracy of the bundled model in the tasks that people ask for first."""
    if (measured := result("nano")) is None:
        return NOT_RUN
    tasks = measured["tasks"]
    return ", ".join(f"{task} {percent(tasks[task]['accuracy'])}" for task in ("naming", "counting", "reading"))

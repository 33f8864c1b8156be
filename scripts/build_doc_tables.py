"""Fill the tables in README and docs whose numbers come from the code or from a measurement, so that none is typed.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Sizes are counted on models built without
memory; results of molmo-nano come from `benchmarks/results/nano.json`, its training from the recipes in `configs/`, the
caption of the README's picture from the picture.

    python scripts/build_doc_tables.py            write the tables
    python scripts/build_doc_tables.py --check    write nothing; exit with 1 and name the pages that are out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from olmo.data.scenes.art import ConceptSet, concepts
from olmo.data.scenes.signs import WORDS
from olmo.models.auto import model_class
from olmo.models.bundled import BUNDLED_MODEL
from olmo.models.fits import needed_bytes
from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.info import ModelInfo, model_info
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import MODEL_PRESETS, preset
from olmo.nn.llm_presets import LLM_PRESETS
from olmo.train.optim.adamw import component_configs
from olmo.train.train_config import TrainConfig, TrainTaskName

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "nano.json"
CLIP_RESULT = ROOT / "benchmarks" / "results" / "nano_video.json"
HE_RESULT = ROOT / "benchmarks" / "results" / "he_accuracy.json"
SERVE_RESULT = ROOT / "benchmarks" / "results" / "serve.json"
OPTIONS_RESULT = ROOT / "benchmarks" / "results" / "decode_options.json"
COMPARED_RESULT = ROOT / "benchmarks" / "results" / "model_table.json"
PICTURE = ROOT / "docs" / "images" / "annotated.png"
NANO_CONFIG = ROOT / "configs" / "molmo-nano-wide"
NANO_MODELS = (BUNDLED_MODEL, NANO_CONFIG.name, "molmo-nano-frames")
"""Configurations that the bundled model had, first to last."""

RECIPES = ROOT / "configs"
NOT_MEASURED = "Not measured yet: `make eval-nano` writes the figures that this table is made from."

HE_NOT_MEASURED = "Not measured yet: `python benchmarks/he_accuracy.py --save` writes the figures."
LEARNED_SCORER = "cross"
CHOOSING_PICTURE, CHOOSING_TEXT = (1024, 1024), 64
"""Picture, width and height in pixels, and tokens of text that operations are told for."""

NOT_RUN = "weights not run here"

_STAGE = re.compile(r"# Stage (\d+) of molmo-nano:")
_TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

_LAYOUT_TESTED = "released layout tested on golden vectors; the real weights were not run here"
MODELS: tuple[tuple[str, str, str], ...] = (
    ("Molmo-1B", "olmo_1b", "never released; a configuration to train"),
    ("Molmo-7B-D", "qwen2_7b", _LAYOUT_TESTED),
    ("Molmo-7B-O", "olmo_7b_1024", _LAYOUT_TESTED),
    ("Molmo-72B", "qwen2_72b", "same layout as 7B-D; the real weights were not run here"),
    ("MolmoE-1B", "olmoe_1b_7b", _LAYOUT_TESTED),
)
"""Name, language model in `LLM_PRESETS`, and what is known of it."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first and the last are numbers."""
    marks = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, marks, *rows))


def size(number: float) -> str:
    """`7.7 B` for parameters."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def gibibytes(n_bytes: float) -> str:
    """Bytes as GiB or MiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**29 else f"{n_bytes / 2**20:.0f} MiB"


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
    found = json.loads(COMPARED_RESULT.read_text(encoding="utf-8"))["rows"]
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
    if not RESULT.is_file():
        return NOT_RUN
    tasks = json.loads(RESULT.read_text(encoding="utf-8"))["tasks"]
    return ", ".join(f"{task} {percent(tasks[task]['accuracy'])}" for task in ("naming", "counting", "reading"))


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
    if not RESULT.is_file():
        return NOT_MEASURED
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    hardware = result["hardware"]
    source = (
        f"{result['n_scenes']} scenes from unseen seeds, greedy decoding. Measured on {hardware['device']} "
        f"({hardware['cpu']}, {hardware['threads']} threads) with torch {result['versions']['torch']}; "
        "source: `benchmarks/results/nano.json`."
    )
    text = f"{tasks_table(result)}\n\n{source}"
    if "art" in result:
        art = result["art"]
        text += f"\n\n{art['n_scenes']} scenes in art it was never trained on (`{art['sheet']}`):\n\n{tasks_table(art)}"
    return text


def tasks_table(result: dict[str, Any]) -> str:
    """A row for each task, and for the F1 of its points where a result has them."""
    header = ("Task", "Questions", "Right", "95 % interval", "Picture replaced by grey")
    rows = [(shown(name), *task_cells(entry)) for name, entry in result["tasks"].items()]
    rows += [(f"{shown(name)}, F1", *task_cells(entry)) for name, entry in result.get("points", {}).items()]
    return table(header, rows)


def clip_results() -> str:
    """Accuracy about clips by task, beside the same model's with grey frames and with shuffled ones."""
    result = json.loads(CLIP_RESULT.read_text(encoding="utf-8"))
    clip, *others = (result["views"][view]["tasks"] for view in ("clip", "grey", "shuffled"))
    header = ("Task", "Questions", "Right", "95 % interval", "All frames grey", "Frames shuffled", "Goal")
    rows = []
    for name, entry in clip.items():
        beside = (percent(tasks[name]["accuracy"]) for tasks in others)
        rows.append((shown(name), *task_cells(entry)[:3], *beside, percent(result["floors"].get(name))))
    return table(header, rows)


def shown(task: str) -> str:
    """`pointing several, near` for the task `pointing_several_near`."""
    return re.sub(r"_(near|absent)$", r", \1", task).replace("_", " ")


def task_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    """Number of questions, accuracy or F1, interval and blind figure of one task."""
    low, high = entry["interval"]
    return (
        str(entry["n"]),
        percent(entry.get("accuracy", entry.get("f1"))),
        f"{percent(low)} to {percent(high)}",
        percent(entry.get("blind")),
    )


def he_result() -> dict[str, Any] | None:
    """The measurement of HeMolmo-nano; None where there is none yet."""
    return json.loads(HE_RESULT.read_text(encoding="utf-8")) if HE_RESULT.is_file() else None


def he_tasks() -> str:
    """Every task: molmo-nano's accuracy, and what each ratio of the learned scorer takes from it or adds."""
    if (result := he_result()) is None:
        return HE_NOT_MEASURED
    rows = [row for row in result["rows"] if row["scorer"] in (BUNDLED_MODEL, LEARNED_SCORER)]
    peer, learned = rows[0], rows[1:]
    header = ("Task", BUNDLED_MODEL, *(f"at {row['ratio']:g}" for row in learned))
    cells = [
        (shown(task), percent(figure["accuracy"]), *(points(row["tasks"][task]) for row in learned))
        for task, figure in peer["tasks"].items()
    ]
    cells.append(("mean", percent(peer["mean"]), *(points(row, "mean_") for row in learned)))
    tokens = ", ".join(f"{row['picture_tokens']} at {row['ratio']:g}" for row in learned)
    source = (
        f"{peer['n_scenes']} scenes from unseen seeds. Points of a percent gained or lost to {BUNDLED_MODEL}, answer "
        f"by answer, with their 95 % intervals; where points are asked for, F1. Picture tokens: {tokens}; source: "
        "`benchmarks/results/he_accuracy.json`."
    )
    return f"{table(header, cells)}\n\n{source}"


def he_scorers() -> str:
    """Every scorer at every ratio: its cost and what it loses."""
    if (result := he_result()) is None:
        return HE_NOT_MEASURED
    shown_tasks = ("naming", "counting", "pointing", "reading")
    header = ("Scorer", "Ratio", "Operations", "of the language model", "Mean", *shown_tasks)
    cells = [
        (
            f"`{row['scorer']}`",
            f"{row['ratio']:g}",
            f"{row['operations']:.2f}",
            f"{row['llm_operations']:.2f}",
            points(row, "mean_"),
            *(points(row["tasks"][task]) for task in shown_tasks),
        )
        for row in result["rows"]
        if row["scorer"] != BUNDLED_MODEL
    ]
    return table(header, cells)


def points(figure: dict[str, Any], prefix: str = "") -> str:
    """`-1.2 ± 0.8`, in points of a percent."""
    return f"{100 * figure[f'{prefix}difference']:+.1f} ± {100 * figure[f'{prefix}difference_error']:.1f}"


def served() -> str:
    """What a server does a second, and how soon the first token comes, beside its peers."""
    if not SERVE_RESULT.is_file():
        return "Not measured yet: `python benchmarks/serve.py --save` writes the figures."
    result = json.loads(SERVE_RESULT.read_text(encoding="utf-8"))
    cells = []
    for row in result["rows"]:
        ours, peer = row["first_token_ms"].values()
        figures = (f"{row['ours']:.2f}", f"{row['peer']:.2f}", f"{row['ratio']:.2f}x")
        cells.append((row["case"], *figures, f"{ours:.0f}", f"{peer:.0f}"))
    header = ("Case", "Requests/s", "Peer", "Ratio", "First token, ms", "Peer, ms")
    return f"{table(header, cells)}\n\nPeer: {result['peer']}; then {result['second_peer']}."


def decode_options() -> str:
    """What each option of decoding gains."""
    if not OPTIONS_RESULT.is_file():
        return "Not measured yet: `python benchmarks/decode_options.py --save` writes the figures."
    result = json.loads(OPTIONS_RESULT.read_text(encoding="utf-8"))
    cells = [
        (
            r["case"],
            f"{1000 * r['ours']:.1f}",
            f"{1000 * r['peer']:.1f}",
            f"{1000 * r['limit']:.1f}",
            f"{r['ratio']:.2f}x",
        )
        for r in result["rows"]
    ]
    return table(("Case", "With, ms", "Without, ms", "Limit, ms", "Gain"), cells)


def percent(share: float | None) -> str:
    """A share for people; a dash where nothing was asked."""
    return "-" if share is None else f"{100 * share:.1f} %"


def picture() -> str:
    """The README's picture with the caption that it carries."""
    with Image.open(PICTURE) as image:
        caption = str(image.info.get("Caption", ""))
    return f"![{caption}]({PICTURE.relative_to(ROOT).as_posix()})\n\n{caption}"


TABLES: dict[str, Callable[[], str]] = {
    "picture": picture,
    "models": models_table,
    "choosing": choosing_table,
    "compared": compared,
    "nano sizes": nano_sizes,
    "nano training": nano_training,
    "nano results": nano_results,
    "clip results": clip_results,
    "he tasks": he_tasks,
    "he scorers": he_scorers,
    "served": served,
    "decode options": decode_options,
}


def filled(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: a table of a name that nobody makes.
    """
    return _TABLE.sub(lambda m: f"{m.group(1)}\n{TABLES[m.group(2)]()}\n\n{m.group(3)}", text)


def pages() -> list[Path]:
    """Pages that may hold tables."""
    docs = ROOT / "docs"
    return [ROOT / "README.md", *sorted(docs.glob("*.md")), *sorted((docs / "guides").glob("*.md"))]


def stale_pages() -> list[str]:
    """Pages that would change."""
    texts = {path: path.read_text(encoding="utf-8") for path in pages()}
    return [str(path.relative_to(ROOT)) for path, text in texts.items() if filled(text) != text]


def main() -> int:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a page is out of date")
    stale = stale_pages()
    if parser.parse_args().check:
        for name in stale:
            print(f"{name} is out of date; run: python scripts/build_doc_tables.py")
        return 1 if stale else 0
    for name in stale:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"changed: {', '.join(stale) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The benchmark of HeMolmo: its figures of before are what the formulas say, and both sides do the same work."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path

import pytest
import torch

from olmo.models.he_molmo.cost import prompt_cost
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import preset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """The modules `he_molmo` and `he_molmo_pair`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("he_molmo"), importlib.import_module("he_molmo_pair")


def saved(config: HeMolmoConfig) -> dict[str, list[str]]:
    """The four lines of the table, at 0.5, 0.25 and 0.125."""
    size = {"width": 1920, "height": 1080, "n_text_tokens": 64}
    plain = MolmoConfig.new(
        llm=config.llm, vision_backbone=config.vision_backbone, mm_preprocessor=config.mm_preprocessor
    )
    before, table = prompt_cost(plain, **size), {}
    costs = [prompt_cost(config.replace(selection_ratio=r), **size) for r in (0.5, 0.25, 0.125)]
    fewer = [
        prompt_cost(config.replace(selection_ratio=r, encode="selected_crops"), **size) for r in (0.5, 0.25, 0.125)
    ]
    table["language model, reading the prompt"] = [before.flops.llm / c.flops.llm for c in costs]
    table["first token"] = [before.total / c.total for c in costs]
    table["first token, crops chosen first"] = [before.total / c.total for c in fewer]
    table["bytes of the cache, share of Molmo's"] = [c.kv_bytes / before.kv_bytes for c in costs]
    return {name: [f"{value:.2f}" for value in values] for name, values in table.items()}


def test_the_figures_of_before_are_computed(scripts):
    benchmark, pair = scripts
    here, at_7b = saved(HeMolmoConfig.new(**pair.SMALL)), saved(preset("hemolmo-7b"))
    for name in here:
        line = next(line for line in benchmark.__doc__.splitlines() if re.match(rf"    {re.escape(name)}  ", line))
        assert re.findall(r"\d\.\d\d", line) == here[name] + at_7b[name]


@torch.inference_mode()
def test_both_sides_do_the_same_work_at_the_real_layout(scripts):
    benchmark, module = scripts
    values = copy.deepcopy(module.SMALL)
    values["llm"] |= {"d_model": 56, "mlp_hidden_size": 32}
    values["vision_backbone"]["vit"] |= {"d_model": 12, "mlp_hidden_size": 8}
    pair = module.HePair(HeMolmoConfig.new(**values))
    assert benchmark.check_same_work(pair) <= benchmark.TOLERANCE
    prompts = pair.prompts(1)
    assert module.fused(pair.plain, prompts).embeds.shape[1] == 1152 + 44 + 64
    kept = module.fused(pair.chosen, prompts, selection_ratio=0.25)
    assert 288 + 4 + 64 < kept.embeds.shape[1] <= pair.cost(0.25).n_tokens == 396
    times = module.answer_seconds(pair.by_crops, prompts, [1, 2, 4], selection_ratio=0.25)
    assert len(times) == 3 and times == sorted(times)

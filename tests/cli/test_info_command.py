from __future__ import annotations

import json

import pytest
from untrained import ROOT

from olmo.cli.model_config import find_config, preset_files
from olmo.models.molmo.molmo import Molmo


def test_json_of_a_folder_equals_the_model(molmo, tiny):
    model = Molmo.from_pretrained(tiny)
    found = json.loads(molmo("info", tiny, "--json").out)
    assert (found["model"], found["model_name"]) == (str(tiny), "molmo")
    assert found["parameters"] == found["active_parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(found["parameters_by_part"].values()) == found["parameters"]
    assert found["context_tokens"] == model.config.llm.max_sequence_length
    assert found["memory"]["fp32"]["weights_bytes"] == 4 * found["parameters"]
    assert set(found["memory"]) == {"fp32", "bf16", "int8"}
    assert set(found["picture_tokens"]) == {"336x336", "640x480", "1024x1024", "1920x1080"}


def test_the_table_says_what_is_counted(molmo, tiny):
    result = molmo("info", tiny)
    assert (result.code, result.err) == (0, "")
    for word in ("Parameters", "llm", "vit", "connector", "Context", "640x480", "int8", "Activations"):
        assert word in result.out


def test_no_weights_are_needed(molmo, tiny, tmp_path):
    (tmp_path / "config.yaml").write_text((tiny / "config.yaml").read_text())
    assert json.loads(molmo("info", tmp_path, "--json").out)["parameters"] > 0
    assert json.loads(molmo("info", tmp_path / "config.yaml", "--json").out)["parameters"] > 0


def test_a_released_layout_is_read(molmo, golden_dir):
    folder = golden_dir / "molmo_e"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    found = json.loads(molmo("info", folder, "--json").out)
    assert found["active_parameters"] < found["parameters"]
    assert "active" in molmo("info", folder).out


def test_presets_go_by_name():
    presets = preset_files()
    assert "molmo-nano" in presets
    assert "nano" not in presets, "that is a recipe"
    for name, file in presets.items():
        assert find_config(name.upper()).asdict() == find_config(str(file)).asdict()


def test_a_text_only_model_has_no_picture_tokens(molmo, tmp_path):
    (tmp_path / "config.yaml").write_text("model_name: molmo\nllm: {d_model: 32, n_heads: 2}\nvision_backbone: null\n")
    found = json.loads(molmo("info", tmp_path, "--json").out)
    assert found["picture_tokens"] == {}
    assert found["parameters_by_part"]["vit"] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("molmo-9b", "presets: "),
        ("./nothing/here", "no file, folder or preset"),
        ("owner/name", "hub"),
        ("{root}/configs/nano.yaml", "unknown key"),
        ("{root}/tests", "no config.yaml"),
    ],
)
def test_an_unknown_model_is_one_line(molmo, name, expected):
    result = molmo("info", name.format(root=ROOT))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert expected in result.err


def test_only_the_configuration_comes_from_the_hub(molmo, tiny, monkeypatch):
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tiny)

    monkeypatch.setattr("olmo.cli.model_config.snapshot_download", snapshot_download)
    assert molmo("info", "tiny/molmo", "--json").code == 0
    assert asked == [("tiny/molmo", ["config.yaml", "config.json", "preprocessor_config.json"])]


def test_a_video_model(molmo, tiny, tiny_video):
    facts, plain = (json.loads(molmo("info", folder, "--json").out) for folder in (tiny_video, tiny))
    assert facts["model_name"] == "video_olmo"
    assert (facts["parameters"], facts["picture_tokens"]) == (plain["parameters"], plain["picture_tokens"])


def test_the_family_is_known_without_a_source_tree(molmo, monkeypatch):
    """An installed package has no `configs` beside it."""
    beside = find_config("molmo-1b").asdict()
    monkeypatch.setattr("olmo.cli.model_config.PRESET_FOLDERS", ())
    assert preset_files() == {}
    assert find_config("Molmo_1B").asdict() == beside
    assert find_config("videoolmo-7b", ["max_frames=4"]).asdict()["max_frames"] == 4
    assert "molmo-72b" in molmo("info", "molmo-9b").err


def test_answering_is_reckoned_where_a_prompt_is_given(molmo, tiny):
    model = Molmo.from_pretrained(tiny)
    options = ("--tokens", 40, "--batch", 3, "--crops", 2, "--new-tokens", 10)
    answering = json.loads(molmo("info", tiny, *options, "--json").out)["answering"]
    assert answering["prompts"] == {"batch_size": 3, "n_tokens": 40, "n_crops": 2, "n_new_tokens": 10}
    memory = answering["memory"]["fp32"]
    assert memory["weights_bytes"] == sum(p.nbytes for p in model.parameters())
    assert memory["cache_bytes"] == model.llm.new_cache(3, 50).n_bytes
    assert memory["total_bytes"] == sum(memory[f"{part}_bytes"] for part in ("weights", "cache", "activation"))
    assert memory["activation_bytes"] > 0
    shown = molmo("info", tiny, *options).out
    assert "keys and values" in shown and "3 prompt(s) of 40 tokens with 2 crop(s)" in " ".join(shown.split())
    assert "answering" not in json.loads(molmo("info", tiny, "--json").out)


def test_a_batch_of_unknown_length_is_refused(molmo, tiny):
    result = molmo("info", tiny, "--batch", 2)
    assert (result.code, result.out) == (2, "")
    assert "--tokens" in result.err


def test_selection_is_told_by_part_and_for_a_hemolmo_alone(molmo, tiny):
    facts = json.loads(molmo("info", "hemolmo-7b", "--selection-ratio", 0.5, "--json").out)["selection"]
    assert facts["ratio"] == 0.5
    parts = facts["prompt_flops"]["640x480"]
    assert list(parts) == ["vit", "connector", "llm", "scorer", "total"]
    assert parts["vit"]["selected"] == parts["vit"]["all"] > 0
    assert 0 < parts["llm"]["selected"] < parts["llm"]["all"]
    for side in ("selected", "all"):
        assert parts["total"][side] == pytest.approx(sum(parts[p][side] for p in ("vit", "connector", "llm", "scorer")))
    assert parts["scorer"]["all"] == 0
    assert "operations" in molmo("info", "hemolmo-7b").out
    refused = molmo("info", tiny, "--selection-ratio", 0.5)
    assert refused.code == 1 and "is for a HeMolmo" in refused.err

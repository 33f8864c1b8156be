from __future__ import annotations

import json
import tomllib
from importlib import metadata

import pytest
from untrained import ROOT

from olmo.cli import doctor as doctor_module
from olmo.cli import installation
from olmo.cli.installation import PURPOSES, Lack, lacks, requirements
from olmo.exceptions import OLMoCheckpointError
from olmo.models.fits import DeviceMemory
from olmo.models.info import model_info
from olmo.models.presets import MODEL_PRESETS, preset

OF_DEVELOPERS = {"test", "dev", "docs"}
MADE_OF_OTHERS = {"train", "all"}


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 12 GiB with 1 GiB free, and a card that does not tell its memory."""
    devices = [DeviceMemory("cpu", "", 12 * 2**30, 2**30), DeviceMemory("cuda:0", "a card", None, None)]
    monkeypatch.setattr(doctor_module, "device_memories", lambda: devices)
    monkeypatch.setattr(doctor_module, "bfloat16_slowdown", lambda: 41.26)


@pytest.fixture
def distribution(monkeypatch):
    """An installation with an extra that is complete, one that is too old and one that is missing."""
    asked = ["torch>=2.11", "numpy<0.1", "nowhere; sys_platform == 'nowhere'"]
    asked += ["rich>=13; extra == 'plots'", "typer>=99; extra == 'video'", "no-such-thing>=1; extra == 'serve'"]
    monkeypatch.setattr(installation.metadata, "requires", lambda name: asked if name == "molmo" else [])


def test_json(molmo, tiny, small_machine, distribution):
    result = molmo("doctor", tiny, "molmo-7b-d", "--json")
    found = json.loads(result.out)
    assert (result.code, result.err) == (1, ""), "numpy does not do"
    assert found["needed"]["missing"] == [f"numpy<0.1 (there is {metadata.version('numpy')})"]
    assert {name: part["missing"] for name, part in found["extras"].items()} == {
        "plots": [],
        "video": [f"typer>=99 (there is {metadata.version('typer')})"],
        "serve": ["no-such-thing>=1"],
    }
    assert found["bfloat16_slowdown"] == 41.3
    assert found["bundled_model"] == "molmo-nano"
    cpu, card = found["devices"]
    assert cpu["fits"][str(tiny)] == {"fp32": "yes", "bf16": "yes", "int8": "yes"}
    assert cpu["fits"]["molmo-7b-d"] == {"fp32": "no", "bf16": "no", "int8": "tight"}
    assert card["fits"]["molmo-7b-d"] == {"fp32": None, "bf16": None, "int8": None}
    memory = model_info(preset("molmo-7b-d")).memory["bf16"]
    assert found["needed_bytes"]["molmo-7b-d"]["bf16"] == round(1.1 * memory.total_bytes)


def test_the_tables(molmo, tiny, small_machine, distribution):
    out = molmo("doctor", tiny).out
    assert "take float32" in out and "41.3 times" in out
    assert "pip install 'molmo[video,serve]'" in out
    assert "cpu: 12.0 GiB, 1.0 GiB free" in out and "cuda:0 (a card): memory not known" in out
    assert "?" in out


def test_nothing_is_missing(molmo, tiny, small_machine, monkeypatch):
    monkeypatch.setattr(installation.metadata, "requires", lambda name: ["torch", "rich; extra == 'plots'"])
    result = molmo("doctor", tiny)
    assert result.code == 0
    assert "pip install" not in result.out


def test_a_source_tree_that_was_not_installed(molmo, tiny, small_machine, monkeypatch):
    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installation.metadata, "requires", none)
    assert requirements() == [] and lacks("serve") == []
    assert "not installed" in molmo("doctor", tiny).out


def test_the_whole_family_is_looked_at(molmo, tiny, small_machine, monkeypatch):
    monkeypatch.setattr(doctor_module, "_needed", lambda name: {"fp32": 1})
    assert list(json.loads(molmo("doctor", "--json").out)["needed_bytes"]) == ["molmo-nano", *MODEL_PRESETS]


def test_an_installation_without_its_model(molmo, tiny, small_machine, monkeypatch):
    def none():
        raise OLMoCheckpointError("not there")

    monkeypatch.setattr(doctor_module, "bundled_model_folder", none)
    assert json.loads(molmo("doctor", tiny, "--json").out)["bundled_model"] is None
    assert "bundled model: none; install the package again" in molmo("doctor", tiny).out


def test_an_unknown_model_is_one_line(molmo, small_machine):
    result = molmo("doctor", "molmo-9b", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ") and "molmo-7b-d" in result.err


def test_every_extra_has_a_purpose():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(PURPOSES) == set(extras) - OF_DEVELOPERS - MADE_OF_OTHERS
    parts = {name for line in (*extras["all"], *extras["train"]) for name in line[len("molmo[") : -1].split(",")}
    assert parts - {"train"} == set(PURPOSES), "`all` brings everything"


def test_what_is_lacking_reads_well():
    assert str(Lack("av", ">=18", None)) == "av>=18"
    assert str(Lack("av", ">=18", "17.0")) == "av>=18 (there is 17.0)"

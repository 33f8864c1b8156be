"""Finding the class of a configuration by `model_name`, and `olmo.models.auto`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml
from tiny import build, values_with, write_config

from olmo.exceptions import OLMoConfigurationError
from olmo.models.auto import MODELS, from_pretrained, load_config, model_class
from olmo.models.model_config import BaseModelConfig
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.llm_config import LlmConfig


@dataclass(kw_only=True)
class FilmConfig(MolmoConfig):
    """A variant with one more field."""

    model_name = "film"
    n_frames: int = 4


@dataclass(kw_only=True)
class SketchConfig(BaseModelConfig):
    """A variant of its own."""

    model_name = "sketch"
    llm: LlmConfig


@dataclass(kw_only=True)
class MyMolmoConfig(MolmoConfig):
    """Somebody's own class without a name of its own."""


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(yaml.safe_dump({**values_with(model_name="film"), "n_frames": 8}))
    return path


def test_p20_the_right_class_is_chosen(tmp_path, film):
    loaded = MolmoConfig.load(film)
    assert type(loaded) is FilmConfig and loaded.n_frames == 8
    assert type(BaseModelConfig.load(film)) is FilmConfig
    assert type(MolmoConfig.load(write_config(tmp_path))) is MolmoConfig
    routed = MolmoConfig.load(write_config(tmp_path / "routed", values_with(llm__block_type="olmoe")))
    assert type(routed) is MolmoConfig and routed.llm.block_type == "olmoe"
    loaded.save(tmp_path / "again.yaml")
    assert MolmoConfig.load(tmp_path / "again.yaml") == loaded


def test_p20_a_class_that_does_not_fit_names_the_one_that_does(tmp_path, film):
    with pytest.raises(OLMoConfigurationError, match="values of a 'film' model; use FilmConfig, not SketchConfig"):
        SketchConfig.load(film)
    with pytest.raises(OLMoConfigurationError, match="values of a 'molmo' model; use MolmoConfig, not FilmConfig"):
        FilmConfig.load(write_config(tmp_path))


def test_p20_an_unknown_model_lists_the_known_ones(tmp_path, film):
    with pytest.raises(OLMoConfigurationError, match=r"model_name: 'opera' is not one of .*'film'.*'sketch'"):
        MolmoConfig.from_dict(values_with(model_name="opera"))
    with pytest.raises(OLMoConfigurationError, match="'film' is not one of 'molmo'"):
        load_config(film)


def test_a_subclass_without_a_name_does_not_take_over_that_of_its_parent(tmp_path):
    path = write_config(tmp_path)
    assert type(MolmoConfig.load(path)) is MolmoConfig
    assert type(MyMolmoConfig.load(path)) is MyMolmoConfig


def test_overrides_may_choose_the_variant(tmp_path):
    config = MolmoConfig.load(write_config(tmp_path), overrides=["model_name=film", "n_frames=2"])
    assert type(config) is FilmConfig and config.n_frames == 2


def test_every_model_is_found_by_the_name_its_configuration_writes():
    assert MODELS["molmo"] is Molmo
    for name, model in MODELS.items():
        assert model.config_class.model_name == name
    with pytest.raises(OLMoConfigurationError, match="'opera' is not one of 'molmo'"):
        model_class("opera")


def test_auto_loads_configurations_and_models_of_either_layout(tmp_path, config):
    model = build(config)
    model.save_checkpoint(tmp_path / "native")
    assert type(load_config(tmp_path / "native")) is MolmoConfig
    loaded = from_pretrained(tmp_path / "native", dtype="bfloat16")
    assert type(loaded) is Molmo and loaded.num_params() == model.num_params()

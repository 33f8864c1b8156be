"""A tiny offline Molmo for all tests of models: a YAML and a byte tokenizer in a folder, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import build, example, picture, values_with, write_config

from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.preprocessing.preprocessor import Preprocessor

MakeModel = Callable[..., Molmo]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `config.yaml` and `tokenizer.json`."""
    return write_config(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture(scope="session")
def make_config(tiny_folder: Path) -> Callable[..., MolmoConfig]:
    """`make_config(llm__n_layers=3)`: the tiny configuration with changes; its tokenizer is found."""

    def make(**dotted: Any) -> MolmoConfig:
        config = MolmoConfig.new(**values_with(**dotted))
        config.source_dir = tiny_folder
        return config

    return make


@pytest.fixture(scope="session")
def make_model(make_config: Callable[..., MolmoConfig]) -> MakeModel:
    """`make_model(seed=1, llm__n_layers=3)`: a random model in eval mode; the same arguments give the same object."""
    made: dict[str, Molmo] = {}

    def make(seed: int = 0, **dotted: Any) -> Molmo:
        key = repr((seed, sorted(dotted.items())))
        if key not in made:
            made[key] = build(make_config(**dotted), seed)
        return made[key]

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel) -> Molmo:
    """The plain tiny model. Tests must not change it."""
    return make_model()


@pytest.fixture(scope="session")
def preprocess(model: Molmo) -> Preprocessor:
    """Its preprocessor for inference."""
    return model.config.build_preprocessor(for_inference=True)


@pytest.fixture
def config(make_config: Callable[..., MolmoConfig]) -> MolmoConfig:
    """A fresh tiny configuration."""
    return make_config()


@pytest.fixture(scope="session")
def inputs(preprocess: Preprocessor) -> dict[str, Any]:
    """One picture of three high-resolution crops and a question."""
    return preprocess(example("what is it?", picture(60, 100)))


@pytest.fixture(scope="session")
def batch(preprocess: Preprocessor, model: Molmo) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Text alone, one picture, two pictures: one by one, and padded on the right."""
    examples = [
        preprocess(example("no picture")),
        preprocess(example("one", picture(60, 100, 1))),
        preprocess(example("a longer question on two", picture(56, 56, 2), picture(90, 40, 3))),
    ]
    return examples, model.config.build_collator()(examples)

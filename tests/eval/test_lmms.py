"""The adapter for `lmms-eval`, against a stand-in for its base class."""

from __future__ import annotations

import abc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from olmo.eval.lmms.adapter import DEFAULT_MAX_NEW_TOKENS, LmmsAnswers, generation_options, lmms_model_class
from olmo.eval.lmms.models import AVAILABLE_MODELS
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.molmo.molmo import Molmo


class FakeLmms(abc.ABC):
    """What `lmms_eval.api.model.lmms` has, as far as an evaluation uses it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}
        self.cached: list[tuple[Any, ...]] = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: self.cached.append(given))
        self.cache_name = self.pretrained  # the real class reads it here too

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[str]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[str]: ...


@pytest.fixture
def lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = FakeLmms


@pytest.fixture(scope="module")
def folder(tiny_model: Molmo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lmms") / "tiny"
    tiny_model.save_checkpoint(path)
    return path


def request(text: str, settings: dict[str, Any], picture: Any, document: int = 0) -> SimpleNamespace:
    show: Callable[[Any], Any] = lambda doc: picture if doc == {"id": document} else pytest.fail("another document")  # noqa: E731
    return SimpleNamespace(args=(text, settings, show, document, "vqa", "val"))


def test_requests_are_answered_in_their_order(lmms_eval: None, folder: Path, tiny_model: Molmo) -> None:
    plugin = importlib.import_module("olmo.eval.lmms.models.molmo_native")
    made = getattr(plugin, AVAILABLE_MODELS["molmo_native"])
    assert issubclass(made, FakeLmms) and issubclass(made, LmmsAnswers)
    model = made(pretrained=str(folder), batch_size="2", max_batch_size=None, device="cpu")
    assert model.cache_name == str(folder) and model.batch_size == 2
    model.task_dict = {"vqa": {"val": [{"id": i} for i in range(4)]}}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    settings = ({"max_new_tokens": 3, "until": ["\n\n"]}, {"max_new_tokens": 5, "temperature": 0})
    asked = [
        request("<image>\nWhat is this?", settings[0], [picture], 0),
        request("And this thing here?", settings[1], [[picture]], 1),
        request("Nothing to see.", settings[0], None, 2),
        request("Two of them?", settings[1], [picture, picture], 3),
    ]
    answers = model.generate_until(asked)
    prepare = tiny_model.config.build_preprocessor(for_inference=True)
    for i, (text, images) in enumerate(
        [
            ("What is this?", [picture]),
            ("And this thing here?", [picture]),
            ("Nothing to see.", []),
            ("Two of them?", [picture] * 2),
        ]
    ):
        inputs = prepare({"prompt": text, "images": images})
        expected = tiny_model.generate(
            **{k: v for k, v in inputs.items() if k != "metadata"},
            max_new_tokens=settings[i % 2 if i != 2 else 0]["max_new_tokens"],
        ).text[0]
        assert answers[i] == expected, i
    assert sorted(c[2] for c in model.cached) == sorted(answers)
    assert model.cached[0][0] == "generate_until" and len(model.cached[0][1]) == 2


def test_settings_of_a_benchmark() -> None:
    assert generation_options({}) == {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS}
    assert generation_options({"max_new_tokens": 16, "temperature": 0, "top_p": 0.9, "num_beams": 1}) == {
        "max_new_tokens": 16,
        "num_beams": 1,
    }
    drawn = generation_options({"temperature": 0.7, "top_p": 0.9, "until": "\n", "do_sample": True, "other": 1})
    assert drawn == {
        "max_new_tokens": DEFAULT_MAX_NEW_TOKENS,
        "do_sample": True,
        "temperature": 0.7,
        "seed": 0,
        "top_p": 0.9,
        "stop_strings": ("\n",),
    }
    assert "do_sample" not in generation_options({"temperature": 0.7, "do_sample": False})


def test_what_is_not_offered_says_so(lmms_eval: None, folder: Path) -> None:
    model = lmms_model_class()(pretrained=str(folder))
    model.task_dict = {"vqa": {"val": [{"id": 0}]}}
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(OLMoInputError, match="choose a task"):
            method([])
    with pytest.raises(OLMoInputError, match="shows a video"):
        model.generate_until([request("x", {}, ["clip.mp4"])])
    with pytest.raises(OLMoInputError, match="'auto' is not offered"):
        lmms_model_class()(pretrained=str(folder), batch_size="auto")


def test_without_the_package() -> None:
    if importlib.util.find_spec("lmms_eval") is not None:
        pytest.skip("lmms-eval is installed here")
    with pytest.raises(OLMoConfigurationError, match="install the package lmms-eval"):
        lmms_model_class()
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        importlib.import_module("olmo.eval.lmms.models.molmo_native").Other  # noqa: B018

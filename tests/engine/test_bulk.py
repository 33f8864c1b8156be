from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from olmo.engine.bulk import WINDOW_BATCHES, BulkAnswer, answer_all
from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo, MolmoConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "llm.d_model=32", "llm.n_heads=2", "llm.n_layers=1", "llm.mlp_hidden_size=32", "vision_backbone.vit.image_size=56",
    "vision_backbone.vit.d_model=24", "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=1",
    "vision_backbone.vit.mlp_hidden_size=32", "vision_backbone.vit_layers=[-1]",
    "vision_backbone.projector_hidden_size=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Molmo:
    return Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", TINY)).eval()


def requests(n: int) -> list[dict[str, Any]]:
    """Prompts of different lengths, every second one with a picture."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        request: dict[str, Any] = {"prompt": "what is this? " * (1 + (7 * i) % 5)}
        if i % 2:
            request["image"] = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)
        found.append(request)
    return found


def alone(model: Molmo, request: dict[str, Any]) -> str:
    inputs = model.config.build_preprocessor(for_inference=True)(request)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    return model.generate(**tensors, max_new_tokens=6).text[0]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_given_alone_in_the_order_asked(model: Molmo, batch_size: int, n_workers: int) -> None:
    asked, seen = requests(WINDOW_BATCHES * 3 + 2), []
    answers = answer_all(
        model,
        iter(asked),
        generation={"max_new_tokens": 6},
        batch_size=batch_size,
        on_done=seen.append,
        n_workers=n_workers,
    )
    assert answers == [alone(model, request) for request in asked]
    assert sorted((a.index, a.text) for a in seen) == list(enumerate(answers))
    assert {a.index: a.image_sizes for a in seen} == {i: ((60, 60),) if i % 2 else () for i in range(len(asked))}
    assert all(a.n_prompt_tokens > 0 for a in seen)


def test_prepared_requests_are_taken_as_they_are(model: Molmo) -> None:
    asked = requests(3)
    prepare = model.config.build_preprocessor(for_inference=True)
    given = [prepare(request) for request in asked]
    assert answer_all(model, given, generation={"max_new_tokens": 4}) == answer_all(
        model, asked, generation={"max_new_tokens": 4}
    )


def test_only_a_window_is_prepared_ahead(model: Molmo) -> None:
    taken, most = 0, 0

    def counted() -> Any:
        nonlocal taken
        for request in requests(20):
            taken += 1
            yield request

    def look(answer: BulkAnswer) -> None:
        nonlocal most
        most = max(most, taken - answer.index)

    answer_all(model, counted(), generation={"max_new_tokens": 1}, batch_size=2, on_done=look)
    assert most <= 2 * WINDOW_BATCHES


def test_a_batch_that_does_not_fit_is_halved(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, sizes = requests(5), []
    expected = answer_all(model, asked, generation={"max_new_tokens": 3})
    whole = Molmo.generate

    def small_device(self: Molmo, input_ids: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, input_ids, **options)

    monkeypatch.setattr(Molmo, "generate", small_device)
    assert answer_all(model, asked, generation={"max_new_tokens": 3}, batch_size=5) == expected
    assert sizes == [5, 2, 3, 1, 2]


def test_one_request_that_does_not_fit_is_an_error(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny_device(self: Molmo, **options: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Molmo, "generate", tiny_device)
    with pytest.raises(torch.OutOfMemoryError):
        answer_all(model, requests(2), batch_size=2)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_bad_request_is_named(model: Molmo, n_workers: int) -> None:
    bad: dict[str, Any] = {"prompt": "x", "image": "no_such_file.png"}
    with pytest.raises(OLMoInputError, match=r"^request 2: .*no_such_file"):
        answer_all(model, [*requests(2), bad], n_workers=n_workers)
    bad["metadata"] = {"place": "mine.jsonl:3"}
    with pytest.raises(OLMoInputError, match=r"^mine\.jsonl:3: .*no_such_file"):
        answer_all(model, [bad], n_workers=n_workers)


def test_settings_out_of_range(model: Molmo) -> None:
    with pytest.raises(OLMoInputError, match="batch_size=0"):
        answer_all(model, [], batch_size=0)
    with pytest.raises(OLMoInputError, match="n_workers=-1"):
        answer_all(model, [], n_workers=-1)
    assert answer_all(model, []) == []

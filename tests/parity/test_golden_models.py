"""The released code's own numbers: logits, greedy tokens and text of three tiny released-layout checkpoints."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from olmo.models.molmo.molmo import Molmo

MODELS = ("molmo_d", "molmo_o", "molmo_e")
CASES = ("text", "image", "two_images")
LOGIT_TOLERANCE = 1e-4  # worst seen: 4e-6


def pixels(height: int, width: int, k: int) -> np.ndarray:
    """The made-up picture of the golden README."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 17 * x + 101 * c + (y * x) // 7 + 13 * k) % 256).astype(np.uint8)


@cache
def loaded(folder: Path) -> Molmo:
    return Molmo.from_pretrained(folder)


def example(folder: Path, case: str) -> dict:
    meta = json.loads((folder / "meta.json").read_text())
    images = [pixels(h, w, k) for k, (h, w) in enumerate(meta["image_sizes_hw"].get(case, []))]
    return {"images": images, "messages": [{"role": "user", "content": meta["prompts"][case]}]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_equal_the_released_code(golden_dir: Path, name: str, case: str) -> None:
    folder = golden_dir / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    golden = load_file(folder / f"case_{case}.safetensors")
    model = loaded(folder)
    inputs = model.config.build_preprocessor(for_inference=True)(example(folder, case))
    assert inputs["input_ids"].tolist() == golden["input_ids"].flatten().tolist()
    if case != "text":
        assert inputs["image_input_idx"].tolist() == golden["image_input_idx"].squeeze(0).tolist()
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(logits[:, -8:], golden["logits_last8"], atol=LOGIT_TOLERANCE, rtol=0)
    mean = golden["logits_mean"].reshape(1, -1)
    torch.testing.assert_close(logits.mean(-1), mean, atol=LOGIT_TOLERANCE, rtol=0)
    greedy = golden["greedy"].flatten().tolist()
    until_end = greedy[: greedy.index(0) + 1] if 0 in greedy else greedy
    out = model.generate(**inputs, max_new_tokens=len(greedy))
    assert out.token_ids[0].tolist() == until_end


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_all_cases_equals_one_by_one(golden_dir: Path, name: str) -> None:
    folder = golden_dir / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    model = loaded(folder)
    preprocess, collate = model.config.build_preprocessor(for_inference=True), model.config.build_collator()
    examples = [preprocess(example(folder, case)) for case in CASES]
    batch = model.generate(**collate(examples), max_new_tokens=8)
    for row, inputs in enumerate(examples):
        alone = model.generate(**inputs, max_new_tokens=8).token_ids[0].tolist()
        together = batch.token_ids[row].tolist()
        assert together[: len(alone)] == alone
        assert batch.text[row] == model.generate(**inputs, max_new_tokens=8).text[0]

"""Token ids, indices and masks of the released processors (golden vectors), and the tokenizer beside transformers.

Tolerance: ids and indices equal; masks within 1e-6 (measured worst case: 0).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.tokenizer import MULTIMODAL_TOKENS, Tokenizer

MODELS = ("molmo_d", "molmo_o", "molmo_e")
CASES = ("text", "image", "two_images")


@pytest.fixture(params=MODELS)
def folder(request, golden_dir):
    path = golden_dir / request.param
    if not (path / "meta.json").is_file():
        pytest.skip(f"{path} is not here")
    return path


def made_picture(height: int, width: int, k: int) -> np.ndarray:
    """Picture k of an example, by the formula of the golden vectors."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * y + 17 * x + 101 * c + (y * x) // 7 + 13 * k) % 256).astype(np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_sequences_equal_the_released_ones(folder, case):
    meta = json.loads((folder / "meta.json").read_text())
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    golden = load_file(folder / f"case_{case}.safetensors")
    preprocess = Preprocessor(
        Tokenizer.from_file(folder, vocab_size),
        DataFormatter(),
        MolmoPreprocessorConfig(legacy_image_mask=True),
        ImageSpec(image_size=336, patch_size=14, mean=tuple(settings["image_mean"]), std=tuple(settings["image_std"])),
        for_inference=True,
    )
    sizes = meta["image_sizes_hw"].get(case, [])
    pictures = [made_picture(h, w, k) for k, (h, w) in enumerate(sizes)]
    inputs = preprocess({"images": pictures, "messages": [{"role": "user", "content": meta["prompts"][case]}]})
    assert torch.equal(inputs["input_ids"], golden["input_ids"][0])
    if pictures:
        assert torch.equal(inputs["image_input_idx"], golden["image_input_idx"][0])
        assert torch.allclose(inputs["image_masks"], golden["image_masks"][0], rtol=0, atol=1e-6)


def test_special_ids_are_the_released_ones(folder):
    meta = json.loads((folder / "meta.json").read_text())
    tokenizer = Tokenizer.from_file(folder, 512)
    ids = {
        "im_start": tokenizer.im_start_id,
        "im_end": tokenizer.im_end_id,
        "im_patch": tokenizer.im_patch_id,
        "im_col": tokenizer.im_col_id,
        "image": tokenizer.image_id,
    }
    assert ids == meta["special_ids"] and tokenizer.bos_token_id == meta["bos_id"]


def test_greedy_text_decodes_as_recorded(folder):
    """The recorded text runs past the end token, which decoding leaves out."""
    meta = json.loads((folder / "meta.json").read_text())
    tokenizer = Tokenizer.from_file(folder, 512)
    for case in CASES:
        greedy = load_file(folder / f"case_{case}.safetensors")["greedy"][0]
        assert tokenizer.decode(greedy) == meta["greedy_text"][case]


def test_transformers_reads_what_is_saved(golden_dir, tmp_path):
    """Also where fillers stand between the vocabulary and the picture tokens."""
    transformers = pytest.importorskip("transformers")
    path = golden_dir / "molmo_d"
    if not (path / "tokenizer.json").is_file():
        pytest.skip(f"{path} is not here")
    values = json.loads((path / "tokenizer.json").read_text())
    values["added_tokens"] = values["added_tokens"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    ours = Tokenizer.from_file(tmp_path, 520)
    ours.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = " User: Describe this image: 3 cats, 日本.  Assistant:"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.convert_tokens_to_ids(list(MULTIMODAL_TOKENS)) == [520 + i for i in range(5)]
    assert theirs.eos_token_id == ours.eos_token_id and theirs.pad_token_id == ours.pad_token_id
    ids = ours.encode(text)
    assert theirs.decode([*ids, ours.eos_token_id], skip_special_tokens=True) == ours.decode([*ids, ours.eos_token_id])

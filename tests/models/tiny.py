"""The smallest Molmo that has every part: crops of 56 px, 16 patches, pooled to 4 tokens; width 32, 2 layers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import yaml
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig

VOCAB_SIZE = 260  # 256 bytes, the end of text, and three ids that stand for nothing
EOS = 256
IM_START, IM_END, IM_PATCH, IM_COL = 260, 261, 262, 263

VALUES: dict[str, Any] = {
    "model_name": "molmo",
    "llm": {
        "d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": VOCAB_SIZE,
        "additional_vocab_size": 8, "max_sequence_length": 256, "init_std": 0.2,
        "tokenizer": {"identifier": "tokenizer.json"},
    },
    "vision_backbone": {
        "vit": {"image_model_type": "openai", "image_size": 56, "patch_size": 14, "d_model": 32, "n_heads": 2,
                "n_layers": 2, "mlp_hidden_size": 48},
        "vit_layers": [-1, -2],
    },
    "mm_preprocessor": {"max_crops": 4, "overlap_margins": [2, 0]},
}  # fmt: skip
"""Plain values of its configuration."""

MODES = (None, "within_image", "image_tokens", "image_to_question")
"""All of `bi_directional_attn`."""


def write_tokenizer(folder: Path) -> None:
    """One token a byte; the end of text is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(tokenizer_models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))


def write_config(folder: Path, values: dict[str, Any] = VALUES) -> Path:
    """`config.yaml` with the tokenizer beside it."""
    write_tokenizer(folder)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def values_with(**dotted: Any) -> dict[str, Any]:
    """`VALUES` with changes, `llm__n_layers=3` for example."""
    values = copy.deepcopy(VALUES)
    for name, value in dotted.items():
        *parents, leaf = name.split("__")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return values


def picture(height: int = 56, width: int = 56, seed: int = 0) -> np.ndarray:
    """Random pixels, uint8 `[H, W, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def example(question: str = "what?", *pictures: np.ndarray, answer: str | None = None) -> dict[str, Any]:
    """An example with any number of pictures."""
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return {"images": list(pictures), "messages": messages} if pictures else {"messages": messages}


def pad(rows: list[torch.Tensor], side: str) -> torch.Tensor:
    """Rows of ids `[L]` as one `[B, L]`, filled with -1."""
    length = max(len(row) for row in rows)
    fill = [row.new_full((length - len(row),), -1) for row in rows]
    parts = [(f, row) if side == "left" else (row, f) for f, row in zip(fill, rows, strict=True)]
    return torch.stack([torch.cat(part) for part in parts])


def shifted(index: torch.Tensor, by: int) -> torch.Tensor:
    """`image_input_idx` of a sequence that begins `by` tokens later."""
    return torch.where(index >= 0, index + by, index)


def build(config: MolmoConfig, seed: int = 0) -> Molmo:
    """A random model in eval mode."""
    return Molmo(config, seed=seed).eval()


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal up to float32 rounding; worst seen over all uses: 4.5e-6 on logits of size 5."""
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


def forward_error(model: Molmo, match: str, *args: Any, **kwargs: Any) -> None:
    """The forward pass refuses these arguments with a message that matches."""
    with pytest.raises(OLMoInputError, match=match), torch.no_grad():
        model(*args, **kwargs)

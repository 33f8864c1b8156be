"""Multiple choice by likelihood: the letters of the options are compared as answers; nothing is written.

A model that would rather write a sentence is still asked which letter it holds for likeliest. Source: the way choices
are scored in MMLU (Hendrycks et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from olmo.engine.bulk import Collate, Inputs, Respond, on_device
from olmo.models.base import ModelBase
from olmo.tokenizer import Tokenizer

N_OPTIONS = "n_options"
"""Key of a request's metadata: how many options the question has, 1 to 26."""


def likeliest_letters(otherwise: Respond) -> Respond:
    """What answers a question with options by the likeliest of their letters.

    Args:
        otherwise: answers questions without options.
    """

    def respond(model: ModelBase, collate: Collate, examples: list[Inputs]) -> list[str]:
        counts = [int(example.get("metadata", {}).get(N_OPTIONS, 0)) for example in examples]
        texts = [""] * len(examples)
        asked = [i for i, n in enumerate(counts) if n]
        others = [i for i, n in enumerate(counts) if not n]
        if asked:
            letters = _choose(model, collate, [examples[i] for i in asked], [counts[i] for i in asked])
            for i, letter in zip(asked, letters, strict=True):
                texts[i] = letter
        if others:
            for i, text in zip(others, otherwise(model, collate, [examples[i] for i in others]), strict=True):
                texts[i] = text
        return texts

    return respond


def letter_tokens(tokenizer: Tokenizer, n: int) -> list[list[int]]:
    """Tokens of an answer that is a letter, for each of the first `n`: one, in all but very small tokenizers."""
    return [tokenizer.encode(f" {chr(ord('A') + i)}") for i in range(n)]


@torch.inference_mode()
def _choose(model: ModelBase, collate: Collate, examples: Sequence[Inputs], counts: Sequence[int]) -> list[str]:
    letters = letter_tokens(model.tokenizer, max(counts))
    was_training = model.training
    model.eval()
    try:
        # One pass where letters are single tokens; else one for each beginning that some of them share.
        beginnings = {tuple(ids[:k]) for ids in letters for k in range(len(ids))}
        after = {beginning: _log_shares(model, collate, examples, beginning) for beginning in beginnings}
    finally:
        model.train(was_training)
    scores = torch.stack(
        [sum((after[tuple(ids[:k])][:, ids[k]] for k in range(1, len(ids))), after[()][:, ids[0]]) for ids in letters]
    )  # [letters, B]
    best = [int(scores[:n, row].argmax()) for row, n in enumerate(counts)]
    return [chr(ord("A") + i) for i in best]


def _log_shares(
    model: ModelBase, collate: Collate, examples: Sequence[Inputs], beginning: Sequence[int]
) -> torch.Tensor:
    """Log-likelihoods `[B, V]` of the next token, where the prompts are followed by the beginning of an answer."""
    begun: list[dict[str, Any]] = [
        {**example, "input_ids": torch.cat([example["input_ids"], example["input_ids"].new_tensor(list(beginning))])}
        for example in examples
    ]
    batch = on_device(collate(begun), model)
    return model(**batch, logits_at="last", use_cache=False).logits[:, 0].float().log_softmax(dim=-1)

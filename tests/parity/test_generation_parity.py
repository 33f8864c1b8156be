"""Greedy decoding and beam search against `generate` of transformers, on a tiny random Llama in float32.

Tolerance: token ids are equal; sequence scores, down to about -100, agree to 5e-5 (measured worst case
8e-6, float32 rounding of the largest).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from olmo.generation.decode import generate
from olmo.generation.params import GenerationParams

PAD = 39  # not 0: transformers takes 0 for "none" in beam search and pads with an end id


class HfStep:
    """A transformers model and its cache as a step."""

    def __init__(self, model: LlamaForCausalLM, prompt_ids: Tensor) -> None:
        self.model = model
        out = model(prompt_ids, use_cache=True)
        self.cache = out.past_key_values
        self.logits = out.logits[:, -1]

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.model(token_ids.unsqueeze(-1), past_key_values=self.cache).logits[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.6,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def prompt_ids() -> Tensor:
    return torch.randint(39, (6, 5), generator=torch.Generator().manual_seed(1))


def _compare(model: LlamaForCausalLM, prompt_ids: Tensor, params: GenerationParams, **settings) -> Tensor:
    with torch.no_grad():
        step = HfStep(model, prompt_ids)
        ours = generate(step, step.logits, params, prompt_ids=prompt_ids)
        theirs = model.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            max_new_tokens=params.max_new_tokens,
            min_new_tokens=params.min_new_tokens,
            do_sample=False,
            eos_token_id=list(params.eos_token_ids),
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    assert torch.equal(ours.token_ids, theirs.sequences[:, prompt_ids.shape[1] :])
    if params.num_beams > 1:
        torch.testing.assert_close(ours.scores, theirs.sequences_scores, atol=5e-5, rtol=0)
    return ours.token_ids


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("minimum", [0, 6])
def test_greedy(model, prompt_ids, repetition_penalty, minimum):
    params = GenerationParams(
        max_new_tokens=12,
        min_new_tokens=minimum,
        eos_token_ids=(3, 11, 17, 25, 30),
        pad_token_id=PAD,
        repetition_penalty=repetition_penalty,
    )
    _compare(model, prompt_ids, params, repetition_penalty=repetition_penalty)


@pytest.mark.parametrize("num_beams", [2, 4, 25])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("minimum", [0, 4])
def test_beams(model, prompt_ids, num_beams, length_penalty, minimum):
    params = GenerationParams(
        max_new_tokens=8,
        min_new_tokens=minimum,
        num_beams=num_beams,
        eos_token_ids=(3, 11, 17, 25, 30),
        pad_token_id=PAD,
        length_penalty=length_penalty,
        output_scores=True,
    )
    _compare(model, prompt_ids, params, num_beams=num_beams, length_penalty=length_penalty, early_stopping="never")

"""Our language model against transformers' Qwen2, Llama, OLMo, OLMo2 and OLMoE, through saved files and our rules.

Tolerance 1e-4 on logits, hidden states and attentions in float32, at tiny size.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from olmo.exceptions import OLMoConfigurationError
from olmo.models.molmo.base_llm import llm_config_from_hf, llm_weight_rules
from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.llm import Llm

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.2,  # ten times the usual, so that differences would show
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# name: (config class, model class, further settings)
CASES = {
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "llama3_tied": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {"num_key_value_heads": 1, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 16},
    ),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", {"clip_qkv": 0.5, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {"num_key_value_heads": 2}),
    "olmoe": (
        "OlmoeConfig",
        "OlmoeForCausalLM",
        {"num_experts": 8, "num_experts_per_tok": 3, "num_key_value_heads": 2},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """The reference model, our model with its weights, and the parsed configuration."""
    config_class, model_class, extra = CASES[request.param]
    torch.manual_seed(7)
    config = getattr(transformers, config_class)(**SIZES, **extra, attn_implementation="eager")
    theirs = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name or name.endswith("bias"):  # all ones or zeros would hide a swap
                parameter.add_(torch.randn_like(parameter) * 0.3)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    hf = json.loads((folder / "config.json").read_text())
    ours = load_ours(hf, load_file(folder / "model.safetensors"))
    return theirs, ours, hf


def load_ours(hf, tensors):
    config = llm_config_from_hf(hf)
    ours = Llm(config.replace(additional_vocab_size=4)).eval()
    state = {r.target: r.combine(*(tensors[s] for s in r.sources)) for r in llm_weight_rules(hf, config)}
    result = ours.load_state_dict(state, strict=False)
    assert result.missing_keys == ["wte.new_embedding"] and not result.unexpected_keys
    used = {s for r in llm_weight_rules(hf, config) for s in r.sources}
    assert used == set(tensors), "every published tensor is used"
    return ours


def random_ids(batch, length, seed=3):
    return torch.randint(0, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_logits_states_and_attentions(pair):
    """Worst case measured over the six: logits 6.5e-6, fused attention 1.9e-5, states 5.5e-6, attentions 1.1e-6."""
    theirs, ours, _ = pair
    ids = random_ids(2, 100)  # past the 64 positions where the llama3 stretching begins
    wanted = theirs(ids, output_hidden_states=True, output_attentions=True)
    positions = torch.arange(ids.shape[1])[None]
    got = ours(ours.embed(ids), position_ids=positions, output_hidden_states=True, output_attentions=True)
    fused = ours(ours.embed(ids), position_ids=positions)
    worst = {
        "logits": (ours.logits(got.hidden) - wanted.logits).abs().max().item(),
        "fused": (ours.logits(fused.hidden) - wanted.logits).abs().max().item(),
        "states": max(worst_of(got.hidden_states, wanted.hidden_states)),
        "attentions": max(worst_of(got.attentions, wanted.attentions)),
    }
    assert len(got.hidden_states) == ours.config.n_layers + 1
    assert max(worst.values()) < TOLERANCE, worst
    assert wanted.logits.std() > 0.1, "the reference is not degenerate"


def worst_of(ours, theirs):
    return [(a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)]


@torch.no_grad()
def test_left_padded_batch_and_decoding(pair):
    """Padding masks, position ids and the cache mean the same thing here and there. Worst case measured 4.2e-6."""
    theirs, ours, _ = pair
    ids = random_ids(2, 12)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, :5] = False
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    wanted = theirs(ids, attention_mask=valid.long(), position_ids=positions).logits
    cache = ours.new_cache(2, 12)
    parts = []
    for start, end in ((0, 8), (8, 9), (9, 12)):
        mask = build_attention_mask(end - start, past_length=start, key_is_valid=valid[:, :end])
        piece, where = ours.embed(ids[:, start:end]), positions[:, start:end]
        out = ours(piece, position_ids=where, attention_mask=mask, cache=cache)
        parts.append(ours.logits(out.hidden))
    difference = (torch.cat(parts, 1) - wanted).abs()[valid].max().item()
    assert difference < TOLERANCE


def test_gradients(pair):
    """The gradient of the embeddings, which passes through every weight. Worst case measured 9e-7."""
    theirs, ours, _ = pair
    ids = random_ids(2, 10)
    grads = []
    embeds = ours.embed(ids).detach().requires_grad_()
    ours.logits(ours(embeds, position_ids=torch.arange(10)[None]).hidden).square().mean().backward()
    grads.append(embeds.grad)
    embeds = embeds.detach().requires_grad_()
    theirs(inputs_embeds=embeds).logits.square().mean().backward()
    difference = (grads[0] - embeds.grad).abs().max().item()
    assert difference < TOLERANCE


def test_config_values(pair):
    theirs, ours, _ = pair
    assert ours.config.embedding_size == ours.config.vocab_size == SIZES["vocab_size"]
    assert ours.config.max_sequence_length == SIZES["max_position_embeddings"]
    assert ours.num_params() == sum(p.numel() for p in theirs.parameters()) + 4 * SIZES["hidden_size"]


def test_old_spelling_of_rope():
    hf = {**SIZES, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": {**LLAMA3_ROPE, "rope_theta": None}}
    del hf["rope_scaling"]["rope_theta"]
    config = llm_config_from_hf(hf)
    assert (config.rope.theta, config.rope.scaling, config.rope.original_max_position) == (5e5, "llama3", 64)


def test_untying_takes_the_head_from_the_embeddings():
    hf = {**SIZES, "model_type": "llama", "tie_word_embeddings": True}
    config = llm_config_from_hf(hf).replace(weight_tying=False)
    sources = {r.target: r.sources for r in llm_weight_rules(hf, config)}
    assert sources["lm_head.weight"] == ("model.embed_tokens.weight",)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
    ],
)
def test_what_is_not_supported_is_named(changes, named):
    with pytest.raises(OLMoConfigurationError, match=named):
        llm_config_from_hf({**SIZES, "model_type": "llama", **changes})

"""Our language model and transformers' Qwen2 with the same random weights, ready to be timed side by side.

The shape is that of SmolLM2-135M. Weights go from the peer to ours by the rules that also read published models. Ours
runs through the path that `generate` takes; the peer through its own `forward` with its own cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, StaticCache

from olmo.models.generate import prefill as prefill_ours
from olmo.models.molmo.base_llm import llm_config_from_hf, llm_weight_rules
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.text_inputs import text_inputs

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,  # with the usual 0.02 a random tied model only repeats its input
}

PEER_CACHES = ("dynamic", "static")


@dataclass(frozen=True)
class Decoder:
    """A prompt that has been read, and what appends one token to it.

    Args:
        step: From token ids `[B]` to the logits `[B, V]` after them.
        logits: Logits `[B, V]` after the prompt.
    """

    step: Callable[[Tensor], Tensor]
    logits: Tensor


@dataclass
class LlmPair:
    """Both models, in eval mode, float32, on the CPU.

    Args:
        shape: Values of `Qwen2Config`.
        seed: Seed of the weights.
    """

    shape: dict[str, Any] = field(default_factory=lambda: dict(SMOLLM2_135M))
    seed: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        config = Qwen2Config(**self.shape, attn_implementation="sdpa")
        self.peer = Qwen2ForCausalLM(config).eval()
        _stir(self.peer)
        hf = {**self.shape, "model_type": "qwen2"}
        llm = llm_config_from_hf(hf)
        self.ours = Molmo(MolmoConfig(llm=llm, vision_backbone=None)).eval()
        tensors = self.peer.state_dict()
        state = {
            rule.target: rule.combine(*(tensors[name] for name in rule.sources)) for rule in llm_weight_rules(hf, llm)
        }
        missing, unexpected = self.ours.llm.load_state_dict(state, strict=False)
        assert not unexpected, f"the rules name tensors that our model lacks: {unexpected}"
        assert missing == ["wte.new_embedding"], f"the rules leave weights of our model at random: {missing}"

    def prompt(self, batch_size: int, length: int) -> Tensor:
        """Random token ids `[B, L]`, always the same for one shape."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randint(0, self.shape["vocab_size"], (batch_size, length), generator=generator)

    def prefill_ours(self, prompt: Tensor, n_new: int) -> Decoder:
        """Read `prompt` `[B, L]` with our model; room for `n_new` tokens."""
        step, logits = prefill_ours(self.ours, text_inputs(prompt, self.ours.config.llm), n_new)
        return Decoder(step, logits)

    def prefill_peer(self, prompt: Tensor, n_new: int, cache: str = "dynamic") -> Decoder:
        """Read `prompt` `[B, L]` with the peer.

        Args:
            prompt: Token ids `[B, L]`.
            n_new: Room for new tokens, where the cache reserves it.
            cache: One of `PEER_CACHES`.
        """
        past: Any = (
            DynamicCache(config=self.peer.config)
            if cache == "dynamic"
            else StaticCache(config=self.peer.config, max_cache_len=prompt.shape[1] + n_new)
        )

        def step(token_ids: Tensor) -> Tensor:
            out = self.peer(input_ids=token_ids[:, None], past_key_values=past, use_cache=True)
            return out.logits[:, -1]

        out = self.peer(input_ids=prompt, past_key_values=past, use_cache=True, logits_to_keep=1)
        return Decoder(step, out.logits[:, -1])

    def weight_bytes_read(self) -> int:
        """Bytes of weights that one decoding step must read: all but the embedding rows that are merely looked up."""
        llm = self.ours.llm
        total = sum(parameter.nbytes for parameter in llm.parameters())
        unused = 0 if llm.wte.new_embedding is None else llm.wte.new_embedding.nbytes
        return total - unused - (0 if llm.lm_head is None else llm.wte.embedding.nbytes)

    def prefill_flops(self, batch_size: int, length: int) -> float:
        """Operations to read a prompt: the projections of every token, causal attention, and one row of logits."""
        llm = self.ours.llm
        matrices = sum(p.numel() for block in llm.blocks for p in block.parameters() if p.ndim == 2)
        heads = llm.config.n_heads * llm.config.resolved_head_dim
        attention = 2 * 2 * heads * (length + 1) / 2 * len(llm.blocks)  # scores and values, half of the square
        head = 2 * llm.wte.embedding.numel()
        return batch_size * (length * (2 * matrices + attention) + head)


def _stir(model: torch.nn.Module) -> None:
    """Norm weights and biases away from ones and zeros, so that a model that forgot them would be found out."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.5 if "bias" in name else 0.1)


def peer_version() -> str:
    """What the peer is called in a result."""
    return f"transformers {transformers.__version__} Qwen2ForCausalLM, sdpa, eager"

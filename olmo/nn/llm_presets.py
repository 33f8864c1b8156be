"""The published language models as data. Source: `molmo` technical notes of the released models, section 1.

Adding a language model is one entry here and one parity case in the tests. Each entry holds values of `LlmConfig`:
`LlmConfig.new(**LLM_PRESETS["qwen2_7b"])`.
"""

from __future__ import annotations

from typing import Any

# fmt: off
LLM_PRESETS: dict[str, dict[str, Any]] = {
    # The language model of Molmo-1B (dense).
    "olmo_1b": {
        "d_model": 2048, "n_heads": 16, "n_layers": 16, "mlp_hidden_size": 8192,
        "vocab_size": 50_280, "embedding_size": 50_304, "max_sequence_length": 2048,
        "norm_type": "layer", "norm_eps": 1e-5, "norm_has_weight": False, "weight_tying": True,
        "rope": {"theta": 10_000.0}, "tokenizer": {"identifier": "allenai/OLMo-1B-hf"},
    },
    # Molmo-7B-D.
    "qwen2_7b": {
        "d_model": 3584, "n_heads": 28, "n_kv_heads": 4, "n_layers": 28, "mlp_hidden_size": 18_944,
        "vocab_size": 152_064, "embedding_size": 152_064, "max_sequence_length": 4096,
        "norm_eps": 1e-6, "qkv_bias": True,
        "rope": {"theta": 1_000_000.0}, "tokenizer": {"identifier": "Qwen/Qwen2-7B"},
    },
    # Molmo-7B-O.
    "olmo_7b_1024": {
        "d_model": 4096, "n_heads": 32, "n_layers": 32, "mlp_hidden_size": 11_008,
        "vocab_size": 100_278, "embedding_size": 100_352, "max_sequence_length": 4096,
        "norm_eps": 1e-6, "norm_after": True, "qk_norm": True,
        "rope": {"theta": 500_000.0}, "tokenizer": {"identifier": "allenai/dolma2-tokenizer"},
    },
    # Molmo-72B. The epsilon is ten times that of the 7B model.
    "qwen2_72b": {
        "d_model": 8192, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80, "mlp_hidden_size": 29_568,
        "vocab_size": 152_064, "embedding_size": 152_064, "max_sequence_length": 4096,
        "norm_eps": 1e-5, "qkv_bias": True,
        "rope": {"theta": 1_000_000.0}, "tokenizer": {"identifier": "Qwen/Qwen2-72B"},
    },
    # MolmoE-1B.
    "olmoe_1b_7b": {
        "d_model": 2048, "n_heads": 16, "n_layers": 16, "mlp_hidden_size": 1024,
        "vocab_size": 50_280, "embedding_size": 50_304, "max_sequence_length": 4096,
        "block_type": "olmoe", "n_experts": 64, "experts_per_token": 8,
        "norm_eps": 1e-5, "qk_norm": True,
        "rope": {"theta": 10_000.0}, "tokenizer": {"identifier": "allenai/OLMoE-1B-7B-0924"},
    },
}
# fmt: on

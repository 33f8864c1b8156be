"""`MolmoConfig` for `transformers`: the fields of a released dense Molmo, or of MolmoE in the names of its own schema.

Written by `molmo export`. It stands alone: nothing of the package that wrote it has to be installed.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MolmoConfig(PretrainedConfig):
    """Configuration of a Molmo.

    Args:
        vocab_size: tokens that the tokenizer knows without the picture tokens.
        embedding_size: rows of the token table; None: `vocab_size`.
        hidden_size: width.
        intermediate_size: width of the joined up and gate matrix, twice that of the feed-forward layer.
        num_hidden_layers: layers of the language model.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads; None: as many as query heads.
        max_position_embeddings: longest sequence in tokens.
        layer_norm_eps: epsilon of the norms.
        rope_theta: base of the rotary frequencies.
        attention_layer_norm: queries and keys are normalised.
        norm_after: norms stand behind attention and feed-forward instead of before.
        qkv_bias: query, key and value projections have a bias.
        weight_tying: the head is the token table.
        layer_norm_type: kind of norm; `"rms"` is the one there is.
        use_cache: keep keys and values while generating.
        **kwargs: fields of MolmoE's schema (`d_model`, `n_heads`, `moe_num_experts`, ...) and of `PretrainedConfig`.
    """

    model_type = "molmo"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 50304,
        embedding_size: int | None = 50304,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_attention_heads: int | None = None,
        num_key_value_heads: int | None = None,
        max_position_embeddings: int = 2048,
        layer_norm_eps: float = 1e-5,
        rope_theta: float = 10_000.0,
        attention_layer_norm: bool = False,
        norm_after: bool = False,
        qkv_bias: bool = False,
        weight_tying: bool = False,
        layer_norm_type: str = "rms",
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        # MolmoE's schema says the same things under the names of the original code.
        self.hidden_size = hidden_size or kwargs.get("d_model", 4096)
        self.num_hidden_layers = num_hidden_layers or kwargs.get("n_layers", 32)
        self.num_attention_heads = num_attention_heads or kwargs.get("n_heads", 32)
        heads = num_key_value_heads or kwargs.get("n_kv_heads")
        self.num_key_value_heads = heads or self.num_attention_heads
        joined = intermediate_size or kwargs.get("mlp_hidden_size")
        self.intermediate_size = joined or int(kwargs.get("mlp_ratio", 4) * self.hidden_size)
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.rope_theta = rope_theta
        self.attention_layer_norm = attention_layer_norm
        self.norm_after = norm_after
        self.qkv_bias = qkv_bias
        self.weight_tying = weight_tying
        self.layer_norm_type = layer_norm_type
        self.use_cache = use_cache
        kwargs.setdefault("tie_word_embeddings", weight_tying)
        super().__init__(**kwargs)

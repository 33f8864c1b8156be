"""The words of the flat configuration of the original Molmo code, as data: which mean what here, which mean nothing.

`flat_config.py` reads and writes with them.
"""

from __future__ import annotations

from typing import Any

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "activation_type": ("swiglu",),
    "alibi": (False, None),
    "attention_layer_norm_with_affine": (True,),
    "attn_logit_softcapping": (None,),
    "bias_for_layer_norm": (False, None),
    "block_type": ("sequential", "moe"),
    "final_logit_softcapping": (None,),
    "hidden_act": ("silu", "swiglu"),
    "include_bias": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "moe_dropless": (True,),
    "moe_interleave": (False,),
    "moe_shared_expert": (False,),
    "multi_query_attention": (None, False),
    "normalize_input_embeds": (False,),
    "quantization_config": (None,),
    "rope": (True,),
    "rope_impl": ("llama",),
    "rope_scaling": (None,),
    "scale_logits": (False,),
    "unconditioned": (False,),
    "use_cls_feature": (False,),
    "use_position_ids": (True,),
}
"""Fields that choose other mathematics, with the values that mean the mathematics of this library."""

LLM_FIELDS = {
    "d_model": "d_model",
    "n_heads": "n_heads",
    "n_kv_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "n_layers": "n_layers",
    "vocab_size": "vocab_size",
    "embedding_size": "embedding_size",
    "additional_vocab_size": "additional_vocab_size",
    "max_sequence_length": "max_sequence_length",
    "layer_norm_eps": "norm_eps",
    "norm_after": "norm_after",
    "attention_layer_norm": "qk_norm",
    "qkv_bias": "qkv_bias",
    "clip_qkv": "clip_qkv",
    "weight_tying": "weight_tying",
    "embedding_dropout": "embedding_dropout",
    "attention_dropout": "attention_dropout",
    "residual_dropout": "residual_dropout",
    "response_residual_dropout": "response_residual_dropout",
    "init_std": "init_std",
    "moe_num_experts": "n_experts",
    "moe_top_k": "experts_per_token",
}
"""Their name of a field of the language model: ours."""

CONNECTOR_FIELDS = ("image_pooling_2d", "image_pooling_h", "image_pooling_w", "image_projector", "image_padding_embed",
                    "image_feature_dropout", "vit_layers")  # fmt: skip
PREPROCESSOR_FIELDS = ("crop_mode", "max_crops", "overlap_margins", "use_col_tokens", "legacy_image_mask")
FORMATTER_FIELDS = {
    "prompt_type": "prompt_templates",
    "prompt_templates": "prompt_templates",
    "message_formatting": "message_format",
    "message_format": "message_format",
    "system_prompt_kind": "system_prompt",
    "system_prompt": "system_prompt",
    "always_start_with_space": "always_start_with_space",
    "default_inference_len": "default_inference_len",
    "loss_token_weighting": "loss_token_weighting",
    "multi_annotation_weighting": "loss_token_weighting",
}
"""Their names of the prompt format, older and newer: ours."""

WRITTEN_FORMATTER_FIELDS = ("prompt_type", "message_formatting", "system_prompt_kind", "always_start_with_space",
                            "default_inference_len", "loss_token_weighting")  # fmt: skip
"""The names that the releases use."""

ENCODER_FIELDS = {
    "image_patch_size": "patch_size",
    "image_emb_dim": "d_model",
    "image_num_heads": "n_heads",
    "image_num_layers": "n_layers",
    "image_mlp_dim": "mlp_hidden_size",
    "image_norm_eps": "norm_eps",
}
"""Their name of a field of the picture encoder: ours."""

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
"""Their name of an activation of the picture encoder: ours."""

NO_INFLUENCE = frozenset({
    "_attn_implementation", "_from_model_config", "_name_or_path", "alibi_bias_max", "architectures",
    "attention_type", "auto_map", "bi_directional_attn", "block_group_size", "bos_token_id",
    "chunk_size_feed_forward", "do_random_scale", "dtype", "eos_token_id", "fix_image_input_idx", "fix_image_padding",
    "flash_attention", "float32_attention", "gin_bindings", "hidden_size", "init_cutoff_factor", "init_device",
    "init_fn", "initializer_range", "is_decoder", "is_encoder_decoder", "llm_load_path", "low_cpu_fsdp",
    "max_position_embeddings", "mlp_hidden_size", "mlp_ratio", "model_name", "model_type", "moe_capacity_factor",
    "moe_lbl_in_fp32", "moe_log_expert_assignment", "moe_loss_weight", "moe_mlp_impl", "moe_zloss_weight",
    "new_embedding_init_range", "output_attentions", "output_hidden_states", "pad_to", "pad_token_id",
    "pad_tokenizer", "precision", "prompt_override", "query_pre_attn_scalar", "response_attention_dropout",
    "return_dict", "rope_full_precision", "rope_theta", "tie_word_embeddings", "tokenizer", "torch_dtype",
    "transformers_version", "use_cache", "vision_backbone", "vit_load_path",
})  # fmt: skip
"""Fields that are read under their own rule, or that have no influence on the result of a model that is run."""


ROUTED_CONSTANTS: dict[str, Any] = {
    "activation_type": "swiglu", "alibi": False, "attention_layer_norm_with_affine": True, "attention_type": "sdpa",
    "attn_logit_softcapping": None, "bias_for_layer_norm": False, "block_group_size": 1,
    "final_logit_softcapping": None, "float32_attention": True, "include_bias": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mlp_ratio": 1, "moe_capacity_factor": 1.25, "moe_dropless": True,
    "moe_interleave": False, "moe_lbl_in_fp32": False, "moe_loss_weight": 0.0, "moe_mlp_impl": "sparse",
    "moe_shared_expert": False, "moe_zloss_weight": 0.0, "multi_query_attention": None,
    "normalize_input_embeds": False, "rope": True, "rope_full_precision": True, "rope_impl": "llama",
    "scale_logits": False, "unconditioned": False, "use_cls_feature": False, "use_position_ids": True,
}  # fmt: skip
"""Fields of MolmoE's configuration that are the same for every model of this library."""

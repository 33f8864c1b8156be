"""How large a model is: parameters by part, memory by number format, tokens of a picture.

The counts are taken from a model built on the meta device, so no weight is read or made. Memory is arithmetic: the
weights and the key-value cache of one full context. Activations, pictures on their way through the encoder and the
framework itself are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from olmo.models.base import ModelBase
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.moe import RoutedMlp
from olmo.preprocessing.image_tokens import count_image_tokens
from olmo.preprocessing.multicrop import tiling_of

BYTES_PER_NUMBER = {"fp32": 4, "bf16": 2}
"""Formats in which every number takes the same room."""

_SCALE_BYTES = 2  # int8: one bf16 scale for each row of a matrix


@dataclass(frozen=True)
class Memory:
    """Bytes that a model needs in one number format."""

    weights_bytes: int
    """All parameters."""

    cache_bytes: int
    """Keys and values of one sequence of full context length."""

    @property
    def total_bytes(self) -> int:
        """Weights and cache."""
        return self.weights_bytes + self.cache_bytes


@dataclass(frozen=True)
class ModelInfo:
    """Sizes of one model."""

    n_params: int
    """All parameters."""

    n_active_params: int
    """Parameters that one token uses; less than all for routed models."""

    n_params_by_part: dict[str, int]
    """Parameters of `llm`, `vit` and `connector` (with the table of extra tokens)."""

    max_sequence_length: int
    """Context in tokens."""

    memory: dict[str, Memory]
    """By number format: fp32, bf16, and int8 (matrices at one byte a number, all else and the cache as bf16)."""


def model_info(config: MolmoConfig, model_class: type[ModelBase] = ModelBase) -> ModelInfo:
    """Sizes of the model that `config` describes.

    Args:
        config: the model.
        model_class: what to build from it.
    """
    with torch.device("meta"):
        model = model_class(config.replace(quantization=None))  # its formats are told below
    n_params, llm = model.num_params(), config.llm
    n_cached = 2 * llm.n_layers * llm.resolved_n_kv_heads * llm.resolved_head_dim * llm.max_sequence_length
    memory = {name: Memory(n_params * size, n_cached * size) for name, size in BYTES_PER_NUMBER.items()}
    memory["int8"] = Memory(_int8_bytes(model, n_params), n_cached * BYTES_PER_NUMBER["bf16"])
    return ModelInfo(
        n_params=n_params,
        n_active_params=model.num_params(include_inactive=False),
        n_params_by_part={k: sum(p.numel() for p in v.values()) for k, v in model.components().items()},
        max_sequence_length=llm.max_sequence_length,
        memory=memory,
    )


def picture_tokens(config: MolmoConfig, width: int, height: int) -> int | None:
    """Tokens that a picture of `width` x `height` pixels takes in the sequence; None for a text-only model."""
    spec = config.image_spec
    if spec is None:
        return None
    tiling = tiling_of(height, width, spec, config.mm_preprocessor)
    return count_image_tokens(tiling, spec, config.mm_preprocessor)


def _int8_bytes(model: nn.Module, n_params: int) -> int:
    """Weights when the matrices of linear layers and experts are int8 with one scale a row, the rest bf16."""
    n_quantized = n_rows = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            n_quantized += module.weight.numel()
            n_rows += module.out_features
        elif isinstance(module, RoutedMlp):
            for experts in (module.experts_in, module.experts_out):
                n_quantized += experts.numel()
                n_rows += experts.shape[0] * experts.shape[1]
    return n_quantized + n_rows * _SCALE_BYTES + (n_params - n_quantized) * BYTES_PER_NUMBER["bf16"]

"""How much memory training takes on one device, by arithmetic. An estimate to plan by, not a promise.

Weights, gradients, moments and the average are exact. Activations are the tensors that the backward pass needs, counted
from the blocks as they are written; workspaces of kernels and fragmentation come on top, about a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.vit_presets import VitSpec
from olmo.train.parallel.activation_checkpointing import ActivationCheckpointing, is_checkpointed

FLOAT32, BFLOAT16 = 4, 2


@dataclass(frozen=True)
class TrainMemory:
    """Bytes on one device."""

    weights: float
    """Float32 weights, this device's share of them."""

    gradients: float
    """Float32 gradients of what learns."""

    moments: float
    """Both moments of AdamW."""

    average: float
    """The moving average, where there is one."""

    working_copies: float
    """bfloat16 copies that arithmetic needs, and blocks gathered from other devices."""

    activations: float
    """What the backward pass needs of one micro-batch, logits included."""

    @property
    def total(self) -> float:
        """Everything."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class MicroBatch:
    """What one device holds at a time.

    Attributes:
        n_tokens: tokens through the language model, padding included.
        n_crops: crops through the picture encoder.
        n_logits: positions with a loss.
    """

    n_tokens: float
    n_crops: float
    n_logits: float


def activation_bytes(
    config: MolmoConfig, batch: MicroBatch, is_half: bool, mode: ActivationCheckpointing | None, vit_learns: bool = True
) -> float:
    """Bytes that the backward pass of one micro-batch needs.

    Args:
        config: the model.
        batch: its size.
        is_half: bfloat16 arithmetic.
        mode: which blocks are computed again.
        vit_learns: whether a gradient reaches the picture encoder; else it keeps nothing.
    """
    size = BFLOAT16 if is_half else FLOAT32
    # Under autocast the residual stream and what the norms read stay float32: so many numbers count twice.
    wide_llm, wide_vit = (4, 6) if is_half else (0, 0)
    width = config.llm.d_model
    llm = _stack(config.llm.n_layers, llm_block_numbers(config.llm) + wide_llm * width, width, mode)
    # Logits, their float32 form, and the gradient of that.
    logits = batch.n_logits * config.llm.resolved_embedding_size * (size + 2 * FLOAT32)
    vision = 0.0
    if config.vision_backbone is not None and vit_learns:
        spec = config.vision_backbone.vit.spec
        n_blocks = 1 + max(layer % spec.n_layers for layer in config.vision_backbone.layers)
        n_patches = spec.n_patches + int(spec.has_class_token)
        vision = _stack(n_blocks, vit_block_numbers(spec) + wide_vit * spec.d_model, spec.d_model, mode)
        vision *= n_patches * batch.n_crops
    return size * (llm * batch.n_tokens + vision) + logits


def llm_block_numbers(config: LlmConfig) -> float:
    """Numbers that one block of the language model keeps for each token."""
    width, inner = config.d_model, config.resolved_mlp_hidden_size
    heads = config.n_heads * config.resolved_head_dim
    projected = heads + 2 * config.resolved_n_kv_heads * config.resolved_head_dim
    attention = 2 * width + 2 * projected + 2 * heads
    feed_forward = 2 * width + 4 * inner  # up, gate, silu(gate) and their product
    if config.block_type is BlockType.olmoe:
        feed_forward = 2 * width + config.experts_per_token * (2 * width + 5 * inner) + 2 * config.n_experts
    return float(attention + feed_forward)


def vit_block_numbers(spec: VitSpec) -> float:
    """Numbers that one block of the picture encoder keeps for each patch."""
    n_inner = 3 if spec.activation == "quick_gelu" else 2  # that one is made of two steps
    return float(10 * spec.d_model + n_inner * spec.mlp_hidden_size)


def _stack(n_blocks: int, full: float, width: int, mode: ActivationCheckpointing | None) -> float:
    """Numbers a token of a stack of blocks; of a checkpointed one only the input stays, and one is open at a time."""
    if mode is None:
        return n_blocks * full
    n_again = sum(is_checkpointed(mode, layer) for layer in range(n_blocks))
    kept = full * 0.6 if mode is ActivationCheckpointing.fine_grained else width  # results of products stay there
    return n_again * kept + (n_blocks - n_again) * full + (full if n_again else 0.0)

"""Configuration of the language model: sizes, block type, norms, rotary embedding, routing. No tensors here."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError
from olmo.tokenizer import TokenizerConfig


class BlockType(ConfigEnum):
    """What a transformer block's feed-forward is; `moe` is the original code's name for `olmoe`."""

    sequential = "sequential"
    olmoe = "olmoe"
    moe = "olmoe"


class NormType(ConfigEnum):
    """RMSNorm (every released Molmo) or LayerNorm (OLMo 1)."""

    rms = "rms"
    layer = "layer"


class RopeScalingType(ConfigEnum):
    """How rotary frequencies are stretched for long contexts."""

    default = "default"
    llama3 = "llama3"


class AttentionBackend(ConfigEnum):
    """What computes attention where a mask is needed; the results are the same."""

    auto = "auto"
    sdpa = "sdpa"
    flex = "flex"


class MoeBackend(ConfigEnum):
    """How the products of routed experts are taken; the results are the same."""

    auto = "auto"
    grouped = "grouped"
    loop = "loop"


@dataclass(kw_only=True)
class RopeConfig(BaseConfig):
    """Rotary position embedding, half-split ("llama") layout, computed in float32."""

    theta: float = 10_000.0
    """Base of the frequencies."""

    scaling: RopeScalingType = RopeScalingType.default
    """`llama3` applies the frequency-dependent stretching of Llama 3.1."""

    factor: float = 8.0
    """llama3: how much the low frequencies are slowed."""

    low_freq_factor: float = 1.0
    """llama3: wavelengths above `original_max_position / low_freq_factor` are fully stretched."""

    high_freq_factor: float = 4.0
    """llama3: wavelengths below `original_max_position / high_freq_factor` are left alone."""

    original_max_position: int = 8192
    """llama3: context length of the original training, in tokens."""


@dataclass(kw_only=True)
class LlmConfig(BaseConfig):
    """Language model of the Molmo family: pre- or post-norm decoder, dense or routed.

    The original code's `moe_num_experts` and `moe_top_k` are taken for `n_experts` and `experts_per_token`.
    """

    moe_num_experts: InitVar[int | None] = None
    moe_top_k: InitVar[int | None] = None
    d_model: int = 2048
    """Width of the residual stream."""

    n_heads: int = 16
    """Query heads; must divide d_model unless head_dim is given."""

    n_kv_heads: int | None = None
    """Key and value heads (grouped-query attention); None means n_heads."""

    head_dim: int | None = None
    """Width of one head; None means d_model / n_heads. Even, because of the rotary halves."""

    n_layers: int = 16
    """Transformer blocks."""

    mlp_hidden_size: int | None = None
    """Inner width of the gated feed-forward, or of one expert; None means 8/3 d_model rounded up to 256."""

    vocab_size: int = 50_280
    """Tokens of the base tokenizer; image special tokens have the ids right after it."""

    embedding_size: int | None = None
    """Rows of the base embedding table and of the output head; None means vocab_size."""

    additional_vocab_size: int = 128
    """Rows of the second embedding table, which follows the base one; it has no output logits."""

    max_sequence_length: int = 4096
    """Context length in tokens."""

    block_type: BlockType = BlockType.sequential
    """`sequential`: dense feed-forward; `olmoe`: routed experts."""

    n_experts: int = 8
    """olmoe: experts a layer."""

    experts_per_token: int = 2
    """olmoe: experts that each token is sent to."""

    moe_backend: MoeBackend = MoeBackend.auto
    """olmoe: `grouped`: one product over tokens sorted by expert; `loop`: expert by expert; `auto`: grouped where it
    can be had."""

    load_balance_weight: float = 0.01
    """olmoe: weight of the loss that draws tokens evenly to the experts, in training; 0: none. The loss is 1 where the
    load is even, whatever the number of experts and choices."""

    router_z_weight: float = 0.001
    """olmoe: weight of the loss that keeps the router's logits small, in training; 0: none."""

    router_bias_rate: float = 0.0
    """olmoe: after each step of training the choice of an expert is favoured by so much more where its load was below
    the mean, and less where above; 1e-3 is usual. 0: no such bias, and no place for one in the weights."""

    norm_type: NormType = NormType.rms
    """Kind of every norm in the LLM."""

    norm_eps: float = 1e-5
    """Epsilon inside the norms."""

    norm_has_weight: bool = True
    """Learned scale in the norms; OLMo 1 has none."""

    norm_after: bool = False
    """Norms on the branch outputs (OLMo 2, Molmo-7B-O) instead of the branch inputs."""

    qk_norm: bool = False
    """RMSNorm over the whole query and key projections, before the head split and the rotary embedding."""

    qkv_bias: bool = False
    """Bias on the query, key and value projections (Qwen2)."""

    clip_qkv: float | None = None
    """Clamp the query, key and value projections to +-this value."""

    rope: RopeConfig = field(default_factory=RopeConfig)
    """Rotary position embedding."""

    weight_tying: bool = False
    """Use the base embedding table as the output head."""

    embedding_dropout: float = 0.0
    """Dropout on the input embeddings, training only."""

    attention_dropout: float = 0.0
    """Dropout on attention weights, training only."""

    attention_backend: AttentionBackend = AttentionBackend.auto
    """`sdpa`: dense masks; `flex`: FlexAttention with block masks, on CPU only where no gradient is recorded; `auto`:
    flex on CUDA in training where rows are packed or hold message trees. With attention_dropout always sdpa."""

    residual_dropout: float = 0.0
    """Dropout on the branch outputs before the residual addition, training only."""

    response_residual_dropout: float = 0.0
    """If above 0: this rate on response tokens and residual_dropout on the others; 0 applies one rate to all."""

    init_std: float = 0.02
    """Standard deviation of random initialisation."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Tokenizer that belongs to these weights."""

    def __post_init__(self, moe_num_experts: int | None, moe_top_k: int | None) -> None:
        self.n_experts = self.n_experts if moe_num_experts is None else moe_num_experts
        self.experts_per_token = self.experts_per_token if moe_top_k is None else moe_top_k
        super().__post_init__()
        for name in ("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length"):
            if getattr(self, name) < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {getattr(self, name)}", name)
        if self.head_dim is None and self.d_model % self.n_heads:
            raise OLMoConfigurationError(
                f"{self.n_heads} heads do not divide d_model {self.d_model}; change one of them or set head_dim",
                "n_heads",
            )
        if self.n_kv_heads is not None and (self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads):
            raise OLMoConfigurationError(f"{self.n_kv_heads} does not divide n_heads {self.n_heads}", "n_kv_heads")
        if self.resolved_head_dim % 2:
            raise OLMoConfigurationError(
                f"must be even for the rotary embedding, got {self.resolved_head_dim}", "head_dim"
            )
        if self.embedding_size is not None and self.embedding_size < self.vocab_size:
            raise OLMoConfigurationError(
                f"{self.embedding_size} is below vocab_size {self.vocab_size}; leave it out or make it larger",
                "embedding_size",
            )
        if self.block_type is BlockType.olmoe and not 1 <= self.experts_per_token <= self.n_experts:
            raise OLMoConfigurationError(
                f"must lie in 1..n_experts ({self.n_experts}), got {self.experts_per_token}", "experts_per_token"
            )
        for name in ("load_balance_weight", "router_z_weight", "router_bias_rate"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout", "response_residual_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise OLMoConfigurationError(f"must lie in [0, 1), got {getattr(self, name)}", name)

    @property
    def resolved_head_dim(self) -> int:
        """Width of one head."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.n_heads

    @property
    def resolved_n_kv_heads(self) -> int:
        """Key and value heads."""
        return self.n_kv_heads if self.n_kv_heads is not None else self.n_heads

    @property
    def resolved_mlp_hidden_size(self) -> int:
        """Inner width of the feed-forward."""
        if self.mlp_hidden_size is not None:
            return self.mlp_hidden_size
        return -(-8 * self.d_model // (3 * 256)) * 256

    @property
    def resolved_embedding_size(self) -> int:
        """Rows of the base embedding table, which is also the number of logits."""
        return self.embedding_size if self.embedding_size is not None else self.vocab_size


# The constructor keeps their defaults; left on the class they would read as None on every configuration.
for _alias in ("moe_num_experts", "moe_top_k"):
    delattr(LlmConfig, _alias)

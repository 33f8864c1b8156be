"""Configuration of the optimizer: one learning rate, warm-up and clipping for each part of the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError


@dataclass(kw_only=True)
class ComponentConfig(BaseConfig):
    """Learning rate of one part of the model."""

    lr: float = 1e-4
    """Peak learning rate, above 0."""

    warmup_steps: int = 200
    """Steps of linear warm-up, 0 or more."""

    first_step: int = 0
    """Step, from 0, in which this part begins to learn; before, it stays bit-identical. The warm-up begins there."""

    is_frozen: bool = False
    """Keep this part bit-identical throughout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr <= 0:
            raise OLMoConfigurationError(
                f"must be above 0, got {self.lr}; to stop a part from learning set is_frozen", "lr"
            )
        for name in ("warmup_steps", "first_step"):
            if getattr(self, name) < 0:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)


@dataclass(kw_only=True)
class OptimizerConfig(BaseConfig):
    """AdamW. The defaults are those of caption pretraining of the released models.

    Source: Deitke et al. 2024 (Molmo), table 6.
    """

    connector: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=2e-4, warmup_steps=200))
    """Padding embedding, pooling, projector and the extra-vocabulary table."""

    vit: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=6e-6, warmup_steps=2000))
    """Picture encoder."""

    llm: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=2e-5, warmup_steps=2000))
    """Language model."""

    selector: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=2e-4, warmup_steps=200))
    """Token selector of a HeMolmo; without effect on other models."""

    is_embedding_frozen: bool = False
    """Keep the base table of token embeddings bit-identical, as the released models did. The output head still learns,
    so this cannot be had where the two share their weights (`llm.weight_tying`)."""

    beta1: float = 0.9
    """Decay of the mean of gradients, in [0, 1)."""

    beta2: float = 0.95
    """Decay of the mean of squared gradients, in [0, 1)."""

    eps: float = 1e-6
    """Added to the root of the mean square, above 0."""

    weight_decay: float = 0.0
    """Decoupled decay of matrices, 0 or more; vectors and norms never decay."""

    clip_norm: float = 1.0
    """Largest gradient norm, taken separately for each component; 0 switches clipping off."""

    final_lr_ratio: float = 0.1
    """Share of the peak learning rate that the cosine ends at, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise OLMoConfigurationError(f"must lie in [0, 1), got {getattr(self, name)}", name)
        if self.eps <= 0:
            raise OLMoConfigurationError(f"must be above 0, got {self.eps}", "eps")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)
        if not 0.0 <= self.final_lr_ratio <= 1.0:
            raise OLMoConfigurationError(f"must lie in [0, 1], got {self.final_lr_ratio}", "final_lr_ratio")

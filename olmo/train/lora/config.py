"""Configuration of low-rank adapters: which parts of the model get them, how large they are, and on what base."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


class LoraPart(ConfigEnum):
    """A part of the model, as `ModelBase.components` names it."""

    llm = "llm"
    vit = "vit"
    connector = "connector"
    selector = "selector"


class LoraBase(ConfigEnum):
    """How the frozen matrices below the adapters are kept in memory."""

    none = "none"
    int8 = "int8"
    int4 = "int4"


@dataclass(kw_only=True)
class LoraConfig(BaseConfig):
    """Low-rank adapters on the linear layers of chosen parts; everything else is frozen.

    Source: Hu et al. 2021 (LoRA), section 4; Dettmers et al. 2023 (QLoRA), section 3, for the 4-bit base.
    """

    rank: int = 16
    """Inner width of each adapter, at least 1."""

    alpha: float = 32.0
    """Strength: the adapter's product is multiplied by `alpha / rank`."""

    dropout: float = 0.0
    """Probability, 0 to below 1, that an input of an adapter is zeroed in training."""

    parts: list[LoraPart] = field(default_factory=lambda: [LoraPart.llm])
    """Parts that get adapters: `llm`, `vit`, `connector`, `selector`, in any combination."""

    whole_parts: list[LoraPart] = field(default_factory=list)
    """Parts that learn in full beside the adapters, such as a fresh connector or selector; saved with the adapters."""

    target_modules: list[str] = field(default_factory=list)
    """Last names of the layers to adapt, `att_proj` say; empty: every linear layer but router, head and patches."""

    base: LoraBase = LoraBase.none
    """Adapted matrices are kept as they are (`none`), in 8 bits a number (`int8`), or as NF4 on a GPU (`int4`)."""

    init_from: str | None = None
    """Folder of an adapter of the same shape to go on from, relative to the working directory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.rank}", "rank")
        if self.alpha <= 0:
            raise OLMoConfigurationError(f"must be above 0, got {self.alpha}", "alpha")
        if not 0.0 <= self.dropout < 1.0:
            raise OLMoConfigurationError(f"must be from 0 to below 1, got {self.dropout}", "dropout")
        if not self.parts:
            raise OLMoConfigurationError(
                "names no part to adapt; give one of llm, vit, connector, or leave the whole lora section out", "parts"
            )
        both = sorted(set(self.parts) & set(self.whole_parts))
        if both:
            raise OLMoConfigurationError(
                f"{', '.join(both)} stands in parts and in whole_parts; a part gets adapters or learns in full",
                "whole_parts",
            )

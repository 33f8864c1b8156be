"""`HeMolmoConfig`: a `VideoOlmoConfig` that also says how many picture tokens stay, and what scores them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig


class ScorerType(ConfigEnum):
    """What gives a picture token its score. The last four need no training."""

    cross = "cross"
    lowres_llm = "lowres_llm"
    vit_attention = "vit_attention"
    norm = "norm"
    uniform = "uniform"
    random = "random"


class Granularity(ConfigEnum):
    """Among which tokens the best are taken."""

    all_tokens = "global"
    per_crop = "per_crop"


class Teacher(ConfigEnum):
    """What the scores are drawn to."""

    attention = "attention"
    gradient = "gradient"


class QueryStart(ConfigEnum):
    """What the comparison of question and tokens is before training."""

    zero = "zero"
    matching = "matching"


class Encode(ConfigEnum):
    """What goes through the picture encoder."""

    all_crops = "all_crops"
    selected_crops = "selected_crops"


@dataclass(kw_only=True)
class TokenScorerConfig(BaseConfig):
    """The network that scores picture tokens, how the best are taken, and how it learns."""

    scorer: ScorerType = ScorerType.cross
    """`cross` (a prior, the question and the place) or `lowres_llm` (the question as the first layers of the language
    model read it behind a coarse picture); without training `vit_attention` (attention received in the picture
    encoder), `norm`, `uniform` (evenly spread) and `random`."""

    hidden_size: int = 1024
    """Width of the prior's hidden layer."""

    query_size: int = 256
    """Width of the space in which question and tokens are compared."""

    query_start: QueryStart = QueryStart.zero
    """`zero`: a fresh scorer does not heed the question; `matching`: question and tokens go through the same map, so
    that tokens like the words of the question score best. The latter is for models whose picture features lie in the
    space of their embeddings, such as molmo-nano."""

    dropout: float = 0.1
    """Of the features that are scored, in training; 0 to 1, 1 excluded."""

    detach: bool = True
    """Scores send no gradient into the features they are made of."""

    low_res_layers: float = 0.25
    """Share of the language model's layers that `lowres_llm` runs, above 0 to 1; at least one layer is."""

    granularity: Granularity = Granularity.all_tokens
    """`global`: the best of all tokens of a row; `per_crop`: the best of each crop or frame."""

    keep_global_crop: bool = False
    """The tokens of the global crop stay before others; they count. Without effect where pictures are one crop."""

    min_per_crop: int = 0
    """So many tokens of each crop or frame stay before others; they count."""

    min_keep: int = 1
    """Fewest tokens of a row that stay, or all where there are fewer."""

    temperature: float = 1.0
    """Scores are divided by it before the sigmoid of the gate."""

    budget_weight: float = 0.01
    """Weight of the loss that draws the mean gate to the ratio, in training; 0: none."""

    distillation_weight: float = 0.0
    """Weight of the loss that draws scores to the teacher's, in training; 0: none. The teacher is this model itself
    with all of its tokens."""

    teacher: Teacher = Teacher.attention
    """`attention`: how much the text behind a token attends to it in one layer, the mean over heads; `gradient`: how
    much the loss of the answers depends on its feature (the product of the two, in absolute value)."""

    teacher_layer: float = 0.5
    """Which layer, as a share of the depth, `attention` is read in; 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden_size", "query_size", "min_keep"):
            if getattr(self, name) < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {getattr(self, name)}", name)
        if self.min_per_crop < 0:
            raise OLMoConfigurationError(f"must be 0 or more, got {self.min_per_crop}", "min_per_crop")
        if not 0 <= self.dropout < 1:
            raise OLMoConfigurationError(f"must be 0 to 1, 1 excluded, got {self.dropout}", "dropout")
        for name in ("low_res_layers", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise OLMoConfigurationError(f"must be above 0, got {getattr(self, name)}", name)
        for name in ("low_res_layers", "teacher_layer"):
            if not 0 <= getattr(self, name) <= 1:
                raise OLMoConfigurationError(f"must be at most 1, got {getattr(self, name)}", name)
        for name in ("budget_weight", "distillation_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)


@dataclass(kw_only=True)
class HeMolmoConfig(VideoOlmoConfig):
    """Configuration of HeMolmo. It needs only what a `MolmoConfig` needs; any of those becomes one by `from_molmo`."""

    model_name = "he_molmo"

    token_scorer: TokenScorerConfig = field(default_factory=TokenScorerConfig)
    """Scorer, selection and their losses."""

    selection_ratio: float = 0.25
    """Share of a row's picture tokens that reaches the language model, above 0 to 1; 1 is the plain model."""

    encode: Encode = Encode.all_crops
    """`all_crops`; or `selected_crops`: of a picture in several crops encode the global one first, and of the others
    only those that it and the question ask for."""

    crop_ratio: float | None = None
    """Share of the high-resolution crops that `selected_crops` encodes, above 0 to 1; None: the selection ratio."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.selection_ratio, "selection_ratio")
        if self.crop_ratio is not None:
            check_ratio(self.crop_ratio, "crop_ratio")
        if self.encode is Encode.selected_crops and not self.mm_preprocessor.use_col_tokens:
            raise OLMoConfigurationError(
                "finds out where a crop lies from column tokens; set mm_preprocessor.use_col_tokens=true", "encode"
            )


def check_ratio(ratio: float, name: str) -> None:
    """Refuse what is no share of the tokens.

    Args:
        ratio: the share.
        name: of the field it is meant for.

    Raises:
        OLMoConfigurationError: it is not above 0 and at most 1.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise OLMoConfigurationError(f"must be above 0 and at most 1, got {ratio}", name)

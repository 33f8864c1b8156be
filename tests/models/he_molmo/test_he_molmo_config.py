"""What a HeMolmo is configured with."""

from __future__ import annotations

import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.models.auto import load_config
from olmo.models.he_molmo.he_molmo import HeMolmoConfig, TokenScorerConfig
from olmo.models.he_molmo.he_molmo_config import ScorerType


def test_p56_it_needs_what_a_molmo_needs_and_keeps_a_quarter(make_config) -> None:
    plain = make_config()
    config = HeMolmoConfig(llm=plain.llm, vision_backbone=plain.vision_backbone, mm_preprocessor=plain.mm_preprocessor)
    assert config.selection_ratio == 0.25 and config.token_scorer == TokenScorerConfig()
    assert config.token_scorer.scorer is ScorerType.cross
    assert {"data_formatter", "mm_preprocessor", "bi_directional_attn"} <= set(config.asdict())


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan"), True])
def test_p56_a_ratio_is_above_0_and_at_most_1(make_config, ratio) -> None:
    with pytest.raises(OLMoConfigurationError, match="selection_ratio"):
        HeMolmoConfig(llm=make_config().llm, selection_ratio=ratio)


@pytest.mark.parametrize(("field", "value"), [
    ("hidden_size", 0), ("query_size", 0), ("min_keep", 0), ("min_per_crop", -1), ("dropout", 1.0),
    ("low_res_layers", 0.0), ("low_res_layers", 1.5), ("teacher_layer", 1.1), ("temperature", 0.0),
    ("budget_weight", -1.0), ("distillation_weight", float("inf")), ("scorer", "best"), ("teacher", "me"),
])  # fmt: skip
def test_wrong_scorers_are_named(field: str, value: object) -> None:
    with pytest.raises(OLMoConfigurationError, match=field):
        TokenScorerConfig.from_dict({field: value})


def test_crops_can_be_chosen_only_where_their_places_are_known(make_config) -> None:
    plain = make_config(mm_preprocessor__use_col_tokens=False)
    with pytest.raises(OLMoConfigurationError, match="column tokens"):
        HeMolmoConfig.from_molmo(plain, encode="selected_crops")


def test_a_saved_configuration_loads_as_itself(make_he_config, tmp_path) -> None:
    config = make_he_config(selection_ratio=0.5, token_scorer={"scorer": "lowres_llm", "granularity": "per_crop"})
    config.save(tmp_path)
    loaded = load_config(tmp_path)
    assert isinstance(loaded, HeMolmoConfig)
    assert loaded.token_scorer == config.token_scorer and loaded.selection_ratio == 0.5

"""Which models vLLM runs, and the reasons that are given where it does not."""

from __future__ import annotations

import re

import pytest

from olmo.models.export.engines import plugin_obstacles, processor_obstacles, vllm_obstacles
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.presets import preset

DENSE = {
    "llm": {"d_model": 256, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 512, "vocab_size": 1824,
            "additional_vocab_size": 128},
    "vision_backbone": {"vit_layers": [-2, -9]},
}  # fmt: skip


def config(**changes: object) -> MolmoConfig:
    return MolmoConfig.from_dict(DENSE, [f"{name.replace('__', '.')}={value}" for name, value in changes.items()])


def test_the_released_shape_has_no_obstacles():
    assert processor_obstacles(config()) == plugin_obstacles(config()) == vllm_obstacles(config()) == []


OWN_CLASS_ONLY = {
    "llm__block_type": ("olmoe", "no routed experts"),
    "vision_backbone__vit__d_model": (512, "not the released encoder"),
    "vision_backbone__vit_layers": ("[-1,-9]", r"vit_layers is \[-1, -9\]; it must be \[-2, -9\]"),
}
BOTH = {
    "llm__additional_vocab_size": (16, "additional_vocab_size is 16; it must be 128"),
    "llm__weight_tying": ("true", "weight_tying is True"),
    "vision_backbone__image_pooling_2d": ("attention", "'attention'; it must be 'attention-meanq'"),
    "vision_backbone__image_projector": ("linear", "'linear'; it must be 'mlp'"),
    "vision_backbone__image_padding_embed": ("null", "image_padding_embed is None"),
    "vision_backbone__projector_hidden_size": (96, "projector_hidden_size is 96; it must be 512"),
    "vision_backbone__vit__image_model_type": ("siglip", "'siglip'; it must be 'openai'"),
    "bi_directional_attn": ("within_image", "bi_directional_attn is 'within_image'"),
    "data_formatter__always_start_with_space": ("false", "always_start_with_space is False"),
}
NO_PROCESSOR = {
    "mm_preprocessor__crop_mode": ("resize", "crop_mode is 'resize'"),
    "mm_preprocessor__use_col_tokens": ("false", "use_col_tokens is False"),
    "vision_backbone__image_pooling_h": (3, "image_pooling_h is 3; it must be 2"),
    "vision_backbone__vit__image_size": (350, "grid of patches is odd"),
}


def told(reasons: list[str], match: str) -> bool:
    return any(re.search(match, reason) for reason in reasons)


@pytest.mark.parametrize(("name", "case"), (OWN_CLASS_ONLY | BOTH | NO_PROCESSOR).items(), ids=lambda v: str(v))
def test_each_obstacle_is_named_by_those_it_stops(name, case):
    value, match = case
    changes = {name: value}
    if name == "vision_backbone__image_pooling_h":
        changes["mm_preprocessor__overlap_margins"] = "[6,6]"
    found = config(**changes)
    assert told(vllm_obstacles(found), match)
    assert told(plugin_obstacles(found), match) == (name not in OWN_CLASS_ONLY)
    assert told(processor_obstacles(found), match) == (name in NO_PROCESSOR)


def test_variants_and_models_without_pictures():
    variant = HeMolmoConfig.from_dict({**DENSE, "model_name": "he_molmo"})
    assert plugin_obstacles(variant) == []
    assert vllm_obstacles(variant) == ["model_name is 'he_molmo'; vLLM has a class for 'molmo'"]
    text = MolmoConfig.from_dict({**DENSE, "vision_backbone": None})
    assert vllm_obstacles(text) == plugin_obstacles(text) == processor_obstacles(text) != []


@pytest.mark.parametrize("name", ["molmo-7b-d", "molmo-7b-o", "molmo-72b", "molmoe-1b"])
def test_the_released_models_run(name):
    found = preset(name)
    assert plugin_obstacles(found) == []
    assert bool(vllm_obstacles(found)) == (name == "molmoe-1b")

"""The models of the family as data: what each is made of. Source: the released models; Molmo-1B is the documents' own.

`preset("molmo-7b-d")` is a configuration; `configs/` holds the same as YAML, for reading and copying. Adding a model is
one entry here and its file there. The image masks of the released models are shifted by one crop
(`legacy_image_mask`): their weights were trained so. VideoOlmo-7B and HeMolmo-7B have the parts of Molmo-7B-D. Molmo-1B
was never released, so nothing is shifted.
"""

from __future__ import annotations

from typing import Any

from olmo.exceptions import OLMoConfigurationError
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.llm_presets import LLM_PRESETS

_CLIP_336: dict[str, Any] = {
    "vit": {"image_model_type": "openai"},
    "vit_layers": [-2, -9],
    "image_pooling_2d": "attention-meanq",
    "image_projector": "mlp",
    "image_padding_embed": "pad_and_partial_pad",
}

MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "molmo-1b": {
        "llm": LLM_PRESETS["olmo_1b"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12},
    },
    "molmo-7b-d": {
        "llm": LLM_PRESETS["qwen2_7b"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12, "legacy_image_mask": True},
    },
    "molmo-7b-o": {
        "llm": LLM_PRESETS["olmo_7b_1024"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12, "legacy_image_mask": True},
    },
    # 36 crops cover a picture of 1024 x 1024 pixels at full resolution.
    "molmo-72b": {
        "llm": LLM_PRESETS["qwen2_72b"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 36, "legacy_image_mask": True},
    },
    "videoolmo-7b": {
        "model_name": "video_olmo",
        "llm": LLM_PRESETS["qwen2_7b"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12, "legacy_image_mask": True},
        "max_frames": 16,
        "frame_sampling": "uniform",
    },
    "hemolmo-7b": {
        "model_name": "he_molmo",
        "llm": LLM_PRESETS["qwen2_7b"],
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12, "legacy_image_mask": True},
        "selection_ratio": 0.25,
    },
    "molmoe-1b": {
        "llm": {**LLM_PRESETS["olmoe_1b_7b"], "residual_dropout": 0.1},
        "vision_backbone": _CLIP_336,
        "mm_preprocessor": {"max_crops": 12, "legacy_image_mask": True},
    },
}
"""Values of the configuration by model name; what is not named has its default."""


def preset(name: str) -> MolmoConfig:
    """The configuration of a model of the family.

    Args:
        name: a key of `MODEL_PRESETS`; upper and lower case mean the same.

    Raises:
        OLMoConfigurationError: no such model; the message lists them.
    """
    if name.lower() not in MODEL_PRESETS:
        raise OLMoConfigurationError(f"no model is called {name!r}; there are {', '.join(MODEL_PRESETS)}")
    values = MODEL_PRESETS[name.lower()]
    classes = {cls.model_name: cls for cls in (MolmoConfig, VideoOlmoConfig, HeMolmoConfig)}
    return classes[values.get("model_name", MolmoConfig.model_name)].from_dict(values)

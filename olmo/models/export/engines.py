"""Which models other engines can run: what vLLM's own class takes for granted, as a list of what stands against it.

Source: `vllm/model_executor/models/molmo.py` of vLLM 0.32, which reads a part of the configuration and has the rest
written into its code.
"""

from __future__ import annotations

from typing import Any

from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType, RopeScalingType
from olmo.nn.vision_config import ImagePaddingEmbed, ImagePooling, ImageProjector, MolmoVisionBackboneConfig
from olmo.nn.vit_config import ImageModelType
from olmo.preprocessing.preprocessor_config import CropMode


def processor_obstacles(config: MolmoConfig) -> list[str]:
    """Why the processor code that is exported does not make the inputs of this model; empty where it does."""
    vision, cut = config.vision_backbone, config.mm_preprocessor
    if vision is None:
        return ["vision_backbone is null: there is no picture to process"]
    found = _differences(
        ("mm_preprocessor.crop_mode", cut.crop_mode, CropMode.overlap_and_resize_c2),
        ("mm_preprocessor.use_col_tokens", cut.use_col_tokens, True),
        ("vision_backbone.vit.resize", vision.vit.spec.resize, "default"),
        ("vision_backbone.image_pooling_h", vision.image_pooling_h, 2),
        ("vision_backbone.image_pooling_w", vision.image_pooling_w, 2),
    )
    if vision.vit.spec.image_size // vision.vit.spec.patch_size % 2:
        found.append("the encoder's grid of patches is odd, where two by two are pooled")
    return found


def plugin_obstacles(config: MolmoConfig) -> list[str]:
    """What keeps vLLM with this project's plugin from running a model; empty where nothing does."""
    vision, llm = config.vision_backbone, config.llm
    found = processor_obstacles(config)
    if vision is None:
        return found
    kind, inner = vision.vit.image_model_type, llm.resolved_mlp_hidden_size
    found += _differences(
        ("vision_backbone.vit.image_model_type", kind, ImageModelType.openai),
        ("vision_backbone.image_pooling_2d", vision.image_pooling_2d, ImagePooling.attention_meanq),
        ("vision_backbone.image_projector", vision.image_projector, ImageProjector.mlp),
        ("vision_backbone.image_padding_embed", vision.image_padding_embed, ImagePaddingEmbed.pad_and_partial_pad),
        ("vision_backbone.projector_hidden_size", vision.projector_hidden_size or inner, inner),
        ("llm.additional_vocab_size", llm.additional_vocab_size, 128),
        ("llm.weight_tying", llm.weight_tying, False),
        ("llm.clip_qkv", llm.clip_qkv, None),
        ("llm.rope.scaling", llm.rope.scaling, RopeScalingType.default),
        ("llm.head_dim", llm.resolved_head_dim, llm.d_model // llm.n_heads),
        ("bi_directional_attn", config.bi_directional_attn, None),
        ("data_formatter.always_start_with_space", config.data_formatter.always_start_with_space, True),
    )
    return found


def vllm_obstacles(config: MolmoConfig) -> list[str]:
    """What keeps the Molmo class that vLLM itself has from running a model; empty where nothing does."""
    found, vision = plugin_obstacles(config), config.vision_backbone
    if vision is not None:
        released = MolmoVisionBackboneConfig()
        if vision.vit.spec != released.vit.spec:
            found.append("vision_backbone.vit is not the released encoder, whose sizes vLLM has in its code")
        found += _differences(("vision_backbone.vit_layers", list(vision.layers), list(released.layers)))
    if config.model_name != MolmoConfig.model_name:
        found.append(f"model_name is {config.model_name!r}; vLLM has a class for 'molmo'")
    if config.llm.block_type is BlockType.olmoe:
        found.append("llm.block_type is 'olmoe'; vLLM's Molmo has no routed experts")
    return found


def _differences(*checked: tuple[str, Any, Any]) -> list[str]:
    return [
        f"{name} is {_shown(value)}; it must be {_shown(wanted)}" for name, value, wanted in checked if value != wanted
    ]


def _shown(value: Any) -> str:
    return repr(str(value)) if isinstance(value, str) else repr(value)

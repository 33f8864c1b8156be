"""The picture encoder against transformers, with weights that went through the rules in `base_vit`.

Tolerance 1e-4 absolute on every hidden state in float32 (values up to 40). Measured worst case over three seeds with
transformers 5.23 and torch 2.13 on an x86-64 CPU with one thread: 0.0 for all four families, bit for bit; other kernels
may sum in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.base_vit import vit_spec_overrides_from_hf, vit_weight_rules
from olmo.nn.image_vit import VisionTransformer, patchify
from olmo.nn.vit_config import ImageModelType, VitConfig

TOLERANCE = 1e-4
SIZES = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "patch_size": 7, "image_size": 42}
MODELS = {
    "openai": (CLIPVisionConfig, CLIPVisionModel, {"intermediate_size": 80}),
    "metaclip": (CLIPVisionConfig, CLIPVisionModel, {"intermediate_size": 80}),
    # 44 pixels hold six whole patches, as SigLIP's 384 hold 27; the rest is cut off.
    "siglip": (SiglipVisionConfig, SiglipVisionModel, {"intermediate_size": 80, "image_size": 44}),
    "dino": (Dinov2Config, Dinov2Model, {"mlp_ratio": 2}),
}


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that every part of the network shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))


def published(family: str) -> tuple[dict[str, Any], Any]:
    """The configuration and a random model of a family, as transformers has them."""
    config_class, model_class, extra = MODELS[family]
    config = config_class(**{**SIZES, **extra})
    model = model_class(config).eval()
    randomise(model)
    return config.to_dict(), model


def load(hf_config: Mapping[str, Any], weights: Mapping[str, Tensor], config: VitConfig) -> VisionTransformer:
    vit = VisionTransformer(config.spec)
    rules = vit_weight_rules(hf_config, config, set(weights))
    assert len({rule.target for rule in rules}) == len(rules)
    # Strict: each of our tensors has a rule, and its shape fits.
    vit.load_state_dict({rule.target: rule.combine(*(weights[name] for name in rule.sources)) for rule in rules})
    return vit


def load_family(family: str, weights: Mapping[str, Tensor] | None = None) -> VisionTransformer:
    hf_config, model = published(family)
    config = vit_spec_overrides_from_hf(hf_config, ImageModelType.parse(family))
    return load(hf_config, model.state_dict() if weights is None else weights, config)


def some_pixels(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(5))


def assert_same(vit: VisionTransformer, other: VisionTransformer) -> None:
    for (name, mine), (_, theirs) in zip(vit.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("family", list(MODELS))
def test_every_hidden_state_equals_transformers(family: str) -> None:
    hf_config, model = published(family)
    vit = load_family(family)
    assert vit.spec.n_layers == (3 if family == "openai" else 4)  # CLIP without its last block
    pixels = some_pixels(hf_config["image_size"])
    side = vit.spec.image_size
    with torch.no_grad():
        theirs = model(pixels, output_hidden_states=True).hidden_states[1 : vit.spec.n_layers + 1]
        ours = vit(patchify(pixels[..., :side, :side], 7), layers=range(vit.spec.n_layers))
    for mine, reference in zip(ours, theirs, strict=True):
        patches = reference[:, int(vit.spec.has_class_token) :]
        assert patches.std() > 1  # there is something to compare
        torch.testing.assert_close(mine, patches, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", list(MODELS))
def test_names_on_disk(family: str, tmp_path: Path) -> None:
    """What transformers writes may carry other names than its modules; both lead to the same encoder."""
    _, model = published(family)
    model.save_pretrained(tmp_path)
    assert_same(load_family(family, load_file(tmp_path / "model.safetensors")), load_family(family))


@pytest.mark.parametrize("family", list(MODELS))
def test_names_behind_a_prefix(family: str) -> None:
    _, model = published(family)
    prefixed = {f"vision_model.{name}": tensor for name, tensor in model.state_dict().items()}
    assert_same(load_family(family, prefixed), load_family(family))


def test_both_name_sets_of_dinov2() -> None:
    _, model = published("dino")
    old = {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
        "o_proj": "output.dense",
    }
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        for new_part, old_part in old.items():
            name = name.replace(f"attention.{new_part}", f"attention.{old_part}")
        weights[name] = tensor
    assert any(".attention.attention.query." in name for name in weights)
    assert any(".attention.output.dense." in name for name in weights)
    assert_same(load_family("dino", weights), load_family("dino"))


@pytest.mark.parametrize(
    ("config_class", "model_class", "image_size"), [(CLIPConfig, CLIPModel, 42), (SiglipConfig, SiglipModel, 44)]
)
def test_encoder_inside_a_checkpoint_with_a_text_tower(config_class: Any, model_class: Any, image_size: int) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    vision = {**SIZES, "intermediate_size": 80, "image_size": image_size}
    config = config_class(text_config={**text, "vocab_size": 30}, vision_config=vision)
    model = model_class(config).eval()
    randomise(model)
    hf_config = config.to_dict()
    vit = load(hf_config, model.state_dict(), vit_spec_overrides_from_hf(hf_config))
    pixels = some_pixels(image_size)
    with torch.no_grad():
        theirs = model.vision_model(pixels, output_hidden_states=True).hidden_states[3]
        (ours,) = vit(patchify(pixels[..., :42, :42], 7), layers=(2,))
    torch.testing.assert_close(ours, theirs[:, int(vit.spec.has_class_token) :], atol=TOLERANCE, rtol=0)


def bicubic_row(values: list[float], n_new: int, factor: float) -> list[float]:
    """Cubic convolution with a = -0.75, edges repeated, as an explicit sum. Source: Keys 1981, equation 4."""

    def weight(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    row = []
    for index in range(n_new):
        centre = (index + 0.5) / factor - 0.5
        base = int(centre // 1)
        taps = range(base - 1, base + 3)
        row.append(sum(weight(centre - t) * values[min(max(t, 0), len(values) - 1)] for t in taps))
    return row


@pytest.mark.parametrize(("n_old", "n_new"), [(6, 4), (4, 6)])  # DINOv2 shrinks 37 to 24, MetaCLIP grows 16 to 24
@pytest.mark.parametrize("family", list(MODELS))
def test_position_tables_are_resized_as_in_the_released_training(family: str, n_old: int, n_new: int) -> None:
    config_class, model_class, extra = MODELS[family]
    hf_config = config_class(**{**SIZES, **extra, "image_size": 7 * n_old}).to_dict()
    model = model_class(config_class(**{**SIZES, **extra, "image_size": 7 * n_old}))
    randomise(model)
    native = vit_spec_overrides_from_hf(hf_config, ImageModelType.parse(family))
    before = load(hf_config, model.state_dict(), native)
    after = load(hf_config, model.state_dict(), native.replace(image_size=7 * n_new))
    first = int(native.spec.has_class_token)
    assert torch.equal(after.positional_embedding[:first], before.positional_embedding[:first])
    channel = before.positional_embedding[first:, 3].detach().view(n_old, n_old)
    factor = (n_new + 0.1) / n_old
    wide = [bicubic_row(row, n_new, factor) for row in channel.tolist()]
    square = torch.tensor([bicubic_row(list(column), n_new, factor) for column in zip(*wide, strict=True)]).T
    resized = after.positional_embedding[first:, 3].detach().view(n_new, n_new)
    torch.testing.assert_close(resized, square, atol=1e-5, rtol=0)
    unchanged = ("class_embedding", "patch_embedding.weight", "blocks.2.attention.wqkv.weight")
    for name in set(unchanged) & set(after.state_dict()):
        assert torch.equal(after.state_dict()[name], before.state_dict()[name])


# config.json of the published encoders, as far as it is read.
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}


@pytest.mark.parametrize(
    ("family", "hf_config"),
    [
        ("openai", {"model_type": "clip", "vision_config": {**LARGE, "patch_size": 14, "image_size": 336}}),
        ("siglip", {"model_type": "siglip", "vision_config": {**SO400M, "patch_size": 14, "image_size": 384}}),
        ("metaclip", {"model_type": "clip", "vision_config": {**LARGE, "patch_size": 14, "image_size": 224}}),
        ("dino", {"model_type": "dinov2", **LARGE, "mlp_ratio": 4, "patch_size": 14, "image_size": 518}),
    ],
)
def test_the_published_encoders_are_the_presets(family: str, hf_config: dict[str, Any]) -> None:
    config = vit_spec_overrides_from_hf(hf_config, ImageModelType.parse(family))
    preset = VitConfig.new(image_model_type=family)
    assert config.spec.image_size == {"metaclip": 224, "dino": 518}.get(family, preset.spec.image_size)
    assert config.replace(image_size=preset.spec.image_size).spec == preset.spec


def test_what_config_json_leaves_out_is_the_default_of_the_family() -> None:
    for family, model_type in (("openai", "clip_vision_model"), ("siglip", "siglip_vision_model"), ("dino", "dinov2")):
        full = MODELS[family][0]().to_dict()
        assert vit_spec_overrides_from_hf({"model_type": model_type}) == vit_spec_overrides_from_hf(full)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "beit"}, "model_type 'beit'.*'clip'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'.*quick_gelu"),
        ({"model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": True}, "SwiGLU"),
    ],
)
def test_encoders_that_need_other_parts_are_refused(changes: dict[str, Any], message: str) -> None:
    hf_config = {**published("openai")[0], **changes}
    with pytest.raises(OLMoCheckpointError, match=message):
        vit_spec_overrides_from_hf(hf_config)


def test_another_family_than_the_weights_is_refused() -> None:
    with pytest.raises(OLMoCheckpointError, match="of the family openai, not siglip"):
        vit_spec_overrides_from_hf(published("openai")[0], ImageModelType.siglip)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 6}, "n_heads is 6, published 3"),
        ({"n_layers": 5}, "n_layers is 5, published 4"),
        ({"patch_size": 14}, "patch_size is 14, published 7"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, int], message: str) -> None:
    hf_config, model = published("openai")
    config = vit_spec_overrides_from_hf(hf_config).replace(**changes)
    with pytest.raises(OLMoCheckpointError, match=message):
        vit_weight_rules(hf_config, config, set(model.state_dict()))


def test_missing_tensors_are_named() -> None:
    hf_config, model = published("dino")
    config = vit_spec_overrides_from_hf(hf_config)
    names = set(model.state_dict()) - {"encoder.layer.2.attention.q_proj.bias"}
    with pytest.raises(OLMoCheckpointError, match=r"encoder\.layer\.2\.attention\.q_proj\.bias"):
        vit_weight_rules(hf_config, config, names)
    with pytest.raises(OLMoCheckpointError, match="not the weights of a dino picture encoder"):
        vit_weight_rules(hf_config, config, {"wte.weight"})

"""The vision backbone: both forms of pictures, masks, block order and the published parameter counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from olmo.exceptions import OLMoInputError
from olmo.nn.image_vit import patchify
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_backbone import MolmoVisionBackbone
from olmo.nn.vision_config import MolmoVisionBackboneConfig

VIT = {"image_size": 24, "patch_size": 4, "d_model": 16, "n_heads": 2, "n_layers": 4, "mlp_hidden_size": 24}
LLM = {"d_model": 20, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 28, "vocab_size": 50}


def tiny_backbone(**changes: Any) -> MolmoVisionBackbone:
    config = MolmoVisionBackboneConfig.new(**{"vit": VIT, "vit_layers": [-2, -4], **changes})
    backbone = MolmoVisionBackbone(config, LlmConfig.new(**LLM))
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    return backbone


def some_images(n: int = 3, height: int = 24, width: int = 24) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["openai", "siglip", "dino", "metaclip"])
def test_pixels_and_patches_give_the_same_tokens(family: str) -> None:
    backbone = tiny_backbone(image_model_type=family)
    images = some_images()
    tokens = backbone(images)
    assert tokens.shape == (3, 9, 20)
    assert torch.equal(backbone(patchify(images, 4)), tokens)


def test_features_are_concatenated_in_the_configured_order() -> None:
    backbone = tiny_backbone()
    patches, grid = backbone.to_patches(some_images())
    features = backbone.encode(patches, grid)
    third, first = backbone.image_vit(patches, layers=(2, 0))
    assert torch.equal(features, torch.cat((third, first), dim=-1))
    single = tiny_backbone(vit_layers=[-1])
    assert single.encode(patches, grid).shape == (3, 36, 16)


def test_no_masks_means_all_real() -> None:
    backbone = tiny_backbone()
    torch.nn.init.ones_(backbone.connector.pad_embed)
    images = some_images()
    assert torch.equal(backbone(images), backbone(images, torch.ones(3, 36)))
    assert not torch.allclose(backbone(images), backbone(images, torch.zeros(3, 36)))


def test_other_sizes_than_the_native_one() -> None:
    backbone = tiny_backbone()
    assert backbone(some_images(2, 16, 32)).shape == (2, 2 * 4, 20)
    assert backbone(some_images(2, 12, 20)).shape == (2, 2 * 3, 20)  # 3x5 patches, padded to whole windows
    assert backbone(patchify(some_images(2, 12, 12), 4)).shape == (2, 2 * 2, 20)


def test_zero_crops_and_single_crops() -> None:
    backbone = tiny_backbone()
    images = some_images()
    together = backbone(images)
    assert backbone(images[:0]).shape == (0, 9, 20)
    assert backbone(patchify(images, 4)[:0]).shape == (0, 9, 20)
    torch.testing.assert_close(backbone(images[1:2])[0], together[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 1, 24, 24), (2, 36, 47), (2, 35, 48)])
def test_other_shapes_are_refused_with_both_forms(shape: tuple[int, ...]) -> None:
    with pytest.raises(OLMoInputError, match=r"\[M, 3, H, W\]"):
        tiny_backbone()(torch.zeros(shape))


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(OLMoInputError, match=r"image_masks has shape \[3, 35\].*\[3, 36\]"):
        tiny_backbone()(some_images(), torch.ones(3, 35))


def test_bfloat16_takes_float32_pixels() -> None:
    backbone = tiny_backbone()
    exact = backbone(some_images())
    rough = backbone.bfloat16()(some_images())
    assert rough.dtype is torch.bfloat16
    assert (rough.float() - exact).norm() / exact.norm() < 0.05


def test_projector_width_follows_the_language_model_unless_set() -> None:
    assert tiny_backbone().connector.image_projector.w1.weight.shape == (28, 16)
    assert tiny_backbone(projector_hidden_size=12).connector.image_projector.w1.weight.shape == (12, 16)


def test_parameter_names() -> None:
    names = set(tiny_backbone().state_dict())
    attention = {f"image_pooling_2d.{n}.{p}" for n in ("wq", "wk", "wv", "wo") for p in ("weight", "bias")}
    projector = {f"image_projector.{n}.weight" for n in ("w1", "w2", "w3")}
    assert {n for n in names if n.startswith("connector.")} == {
        f"connector.{n}" for n in {"pad_embed"} | attention | projector
    }
    first = {n.removeprefix("image_vit.blocks.0.") for n in names if n.startswith("image_vit.blocks.0.")}
    modules = ("attention_norm", "attention.wqkv", "attention.wo", "ffn_norm", "feed_forward.w1", "feed_forward.w2")
    assert first == {f"{module}.{part}" for module in modules for part in ("weight", "bias")}
    assert {n for n in names if n.startswith("image_vit.") and ".blocks." not in n} == {
        "image_vit.class_embedding", "image_vit.positional_embedding", "image_vit.patch_embedding.weight",
        "image_vit.pre_ln.weight", "image_vit.pre_ln.bias",
    }  # fmt: skip


# Published models: width and feed-forward of the language model, parameters of the projector.
@pytest.mark.parametrize(
    ("d_model", "mlp_hidden_size", "n_projector"),
    [(3584, 18944, 106_692_608), (4096, 11008, 67_633_152), (8192, 29568, 302_776_320), (2048, 1024, 4_194_304)],
    ids=["7B-D", "7B-O", "72B", "MolmoE-1B"],
)
def test_parameter_counts_of_the_released_models(d_model: int, mlp_hidden_size: int, n_projector: int) -> None:
    llm = LlmConfig(d_model=d_model, n_heads=d_model // 128, mlp_hidden_size=mlp_hidden_size)
    with torch.device("meta"):
        backbone = MolmoVisionBackbone(MolmoVisionBackboneConfig(), llm)

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(backbone.image_vit) == 290_909_184
    assert count(backbone.connector.image_pooling_2d) == 7_344_128
    assert count(backbone.connector.image_projector) == n_projector
    assert backbone.connector.pad_embed.shape == (2, 2048)
    assert count(backbone) == 290_909_184 + 7_344_128 + n_projector + 4096


@pytest.mark.parametrize("family", ["openai", "siglip", "dino", "metaclip"])
def test_gradients_reach_the_pixels_and_every_part_that_runs(family: str) -> None:
    backbone = tiny_backbone(image_model_type=family)
    masks = torch.ones(3, 36)
    masks[1, :6], masks[2, :6] = 0.0, 0.5
    images = some_images().requires_grad_()
    backbone(images, masks).square().sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0
    for name, parameter in backbone.named_parameters():
        is_used = not name.startswith("image_vit.blocks.3.")  # the deepest wanted block is the last but one
        assert (parameter.grad is not None) == is_used, name
        # The bias of the keys is the same for all members of a window, so no share depends on it.
        if is_used and name != "connector.image_pooling_2d.wk.bias":
            assert parameter.grad.abs().max() > 0, name


def test_autocast_trains_float32_weights() -> None:
    backbone = tiny_backbone()
    exact = backbone(some_images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(some_images(), torch.rand(3, 36))
        rough.float().square().sum().backward()
        tokens = backbone(some_images())
    assert all(p.grad is None or p.grad.dtype is torch.float32 for p in backbone.parameters())
    assert (tokens.float() - exact).norm() / exact.norm() < 0.05

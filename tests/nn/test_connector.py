"""Padding marks, windows, poolings and projectors, each against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from olmo.nn.connector import Connector
from olmo.nn.image_pooling import AttentionPooling, MeanPooling, StackPooling, build_pooling, cut_windows
from olmo.nn.image_projector import LinearProjector, MlpProjector, TwoMlpProjector
from olmo.nn.vision_config import ImagePaddingEmbed, ImagePooling, ImageProjector, MolmoVisionBackboneConfig

VIT = {"image_size": 24, "patch_size": 4, "d_model": 16, "n_heads": 2, "n_layers": 4, "mlp_hidden_size": 24}
WIDTH, FEATURES, HIDDEN = 20, 32, 28  # language model, two blocks of 16, projector


def tiny_config(**changes: Any) -> MolmoVisionBackboneConfig:
    return MolmoVisionBackboneConfig.new(**{"vit": VIT, "vit_layers": [-2, -4], **changes})


def tiny_connector(seed: int = 0, **changes: Any) -> Connector:
    connector = Connector(tiny_config(**changes), WIDTH, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    connector.reset_parameters(generator)
    for parameter in connector.parameters():  # biases and marks that are not zero
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return connector


def some_features(n: int = 2, n_patches: int = 36, width: int = FEATURES) -> torch.Tensor:
    return torch.randn(n, n_patches, width, generator=torch.Generator().manual_seed(7))


def some_masks(n: int = 2, n_patches: int = 36) -> torch.Tensor:
    values = torch.tensor([1.0, 0.0, 0.25, -1.0, 1.0, 0.999])
    return values.repeat(n * n_patches // len(values)).view(n, n_patches)


# Windows


@pytest.mark.parametrize(
    ("side", "window", "n_tokens"), [(24, 2, 144), (27, 3, 81), (27, 2, 196), (27, 9, 9), (24, 3, 64), (24, 1, 576)]
)
def test_number_of_tokens(side: int, window: int, n_tokens: int) -> None:
    windows = cut_windows(some_features(1, side * side, 8), (side, side), (window, window))
    assert windows.shape == (1, n_tokens, window * window, 8)


@pytest.mark.parametrize(("grid", "window"), [((4, 6), (2, 2)), ((5, 3), (2, 2)), ((4, 5), (3, 2)), ((7, 7), (3, 3))])
def test_windows_and_members_are_row_major_and_missing_members_are_zero(
    grid: tuple[int, int], window: tuple[int, int]
) -> None:
    (rows, columns), (height, width) = grid, window
    features = some_features(2, rows * columns, 3)
    windows = cut_windows(features, grid, window)
    number = 0
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            for member in range(height * width):
                row, column = top + member // width, left + member % width
                inside = row < rows and column < columns
                expected = features[:, row * columns + column] if inside else torch.zeros(2, 3)
                assert torch.equal(windows[:, number, member], expected)
            number += 1
    assert windows.shape[1] == number


# Poolings


def test_stack_and_mean_against_plain_torch() -> None:
    windows = cut_windows(some_features(), (6, 6), (2, 2))
    stacked = StackPooling(FEATURES, 4)(windows)
    assert torch.equal(stacked, torch.cat([windows[:, :, member] for member in range(4)], dim=-1))
    expected = F.avg_pool2d(some_features().view(2, 6, 6, FEATURES).permute(0, 3, 1, 2), 2).flatten(2).mT
    torch.testing.assert_close(MeanPooling(FEATURES)(windows), expected)


def test_mean_counts_the_padding_zeros() -> None:
    windows = cut_windows(torch.ones(1, 9, 4), (3, 3), (2, 2))
    assert MeanPooling(4)(windows)[0, :, 0].tolist() == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["attention-meanq", "attention", "attention_2wide"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_attention_poolings_against_an_explicit_loop(kind: str, grid: tuple[int, int]) -> None:
    pooling = tiny_connector(image_pooling_2d=kind).image_pooling_2d
    assert isinstance(pooling, AttentionPooling)
    windows = cut_windows(some_features(1, grid[0] * grid[1]), grid, (2, 2))
    width = 32 if kind == "attention_2wide" else 16
    head_dim = width // 2
    out = pooling(windows)
    assert out.shape == (1, windows.shape[1], width)
    for index, members in enumerate(windows[0]):
        query = pooling.wq(members.mean(0) if kind == "attention-meanq" else members[0])
        keys, values = pooling.wk(members), pooling.wv(members)
        heads = []
        for head in range(2):
            part = slice(head * head_dim, (head + 1) * head_dim)
            scores = torch.stack([query[part] @ key[part] for key in keys]) / head_dim**0.5
            heads.append(sum(p * v[part] for p, v in zip(scores.softmax(0), values, strict=True)))
        torch.testing.assert_close(out[0, index], pooling.wo(torch.cat(heads)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "output_dim", "n_tokens"),
    [
        ("attention-meanq", 16, 9), ("attention", 16, 9), ("attention_2wide", 32, 9),
        ("stack", 128, 9), ("mean", 32, 9), ("none", 32, 36),
    ],
)  # fmt: skip
def test_width_and_tokens_of_every_pooling(kind: str, output_dim: int, n_tokens: int) -> None:
    config = tiny_config(image_pooling_2d=kind)
    assert build_pooling(config).output_dim == output_dim
    connector = tiny_connector(image_pooling_2d=kind)
    assert connector.image_projector.w1.weight.shape == (HIDDEN, output_dim)
    assert connector(some_features(), some_masks()).shape == (2, n_tokens, WIDTH)


def test_none_is_the_projector_on_every_patch() -> None:
    connector = tiny_connector(image_pooling_2d="none", image_padding_embed=None)
    features = some_features()
    torch.testing.assert_close(connector(features, some_masks()), connector.image_projector(features))


# Projectors


def test_projectors_against_plain_torch() -> None:
    x = some_features(width=8)
    mlp, two, one = MlpProjector(8, 6, 5), TwoMlpProjector(8, 6, 5), LinearProjector(8, 5)
    for module in (mlp, two, one):
        module.reset_parameters(torch.Generator().manual_seed(0))

    def swiglu(p: MlpProjector, x: torch.Tensor) -> torch.Tensor:
        gate = x @ p.w1.weight.T
        return (gate * gate.sigmoid() * (x @ p.w3.weight.T)) @ p.w2.weight.T

    torch.testing.assert_close(mlp(x), swiglu(mlp, x))
    first = swiglu(two.first, x)
    torch.testing.assert_close(two(x), first + swiglu(two.second, first))
    torch.testing.assert_close(one(x), x @ one.weight.T)
    assert one.bias is None and one.weight.abs().max() <= (6 / (8 + 5)) ** 0.5


# Padding marks


def test_pad_and_partial_pad_marks() -> None:
    connector = tiny_connector(image_padding_embed="pad_and_partial_pad")
    marked = connector.mark_padding(torch.zeros(2, 36, FEATURES), some_masks())
    whole, partial = connector.pad_embed
    # mask values 1, 0, 0.25, -1 (counts as partial), 1, 0.999
    expected = torch.stack([0 * whole, whole, partial, partial, 0 * whole, partial])
    assert torch.equal(marked[0, :6], expected)


def test_pad_embed_marks_only_whole_padding() -> None:
    connector = tiny_connector(image_padding_embed="pad_embed")
    assert connector.pad_embed.shape == (FEATURES,)
    marked = connector.mark_padding(torch.zeros(2, 36, FEATURES), some_masks())
    zero = torch.zeros(FEATURES)
    assert torch.equal(marked[0, :6], torch.stack([zero, connector.pad_embed, zero, zero, zero, zero]))


def test_regress_marks_by_the_share_of_real_pixels() -> None:
    connector = tiny_connector(image_padding_embed="regress")
    marked = connector.mark_padding(torch.zeros(2, 36, FEATURES), some_masks())
    shares = torch.tensor([1.0, 0.0, 0.25, 0.0, 1.0, 0.999])
    torch.testing.assert_close(marked[0, :6], shares[:, None] * connector.pad_embed)


def test_without_marks_the_mask_changes_nothing() -> None:
    connector = tiny_connector(image_padding_embed=None)
    assert connector.pad_embed is None
    features = some_features()
    assert torch.equal(connector(features, some_masks()), connector(features, torch.ones(2, 36)))


def test_padding_zeros_come_after_the_marks() -> None:
    """An odd grid: the mark must not reach the zero rows, so the corner window's mean holds one mark in four."""
    config = tiny_config(image_pooling_2d="mean", image_padding_embed="pad_embed", vit={**VIT, "image_size": 12})
    connector = Connector(config, WIDTH, HIDDEN)
    torch.nn.init.ones_(connector.pad_embed)
    marked = connector.mark_padding(torch.zeros(1, 9, FEATURES), torch.zeros(1, 9))
    pooled = connector.image_pooling_2d(cut_windows(marked, (3, 3), connector.window))
    assert pooled[0, :, 0].tolist() == [1.0, 0.5, 0.5, 0.25]


# The whole


@pytest.mark.parametrize("projector", list(ImageProjector))
@pytest.mark.parametrize("pooling", list(ImagePooling))
@pytest.mark.parametrize("padding", [None, *ImagePaddingEmbed])
def test_every_parameter_gets_a_gradient(
    projector: ImageProjector, pooling: ImagePooling, padding: ImagePaddingEmbed | None
) -> None:
    connector = tiny_connector(image_projector=projector, image_pooling_2d=pooling, image_padding_embed=padding)
    features = some_features().requires_grad_()
    connector(features, some_masks()).square().sum().backward()
    assert features.grad is not None
    for name, parameter in connector.named_parameters():
        if name == "image_pooling_2d.wk.bias":  # the same for all members, so the shares do not feel it
            assert parameter.grad is not None
            continue
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name
    if padding is ImagePaddingEmbed.pad_and_partial_pad:
        assert connector.pad_embed.grad.abs().sum(-1).min() > 0


def test_dropout_only_in_training() -> None:
    connector = tiny_connector(image_feature_dropout=0.5)
    features, masks = some_features(), some_masks()
    torch.manual_seed(0)
    assert not torch.equal(connector(features, masks), connector(features, masks))
    connector.eval()
    assert torch.equal(connector(features, masks), connector(features, masks))


@pytest.mark.parametrize("pooling", list(ImagePooling))
def test_bfloat16_stays_near_float32(pooling: ImagePooling) -> None:
    connector = tiny_connector(image_pooling_2d=pooling)
    exact = connector(some_features(), some_masks())
    rough = connector.bfloat16()(some_features().bfloat16(), some_masks())
    assert rough.dtype is torch.bfloat16
    assert (rough.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("projector", list(ImageProjector))
@pytest.mark.parametrize("pooling", list(ImagePooling))
def test_fresh_weights_after_a_meta_build(projector: ImageProjector, pooling: ImagePooling) -> None:
    config = tiny_config(image_projector=projector, image_pooling_2d=pooling)
    before = torch.get_rng_state()
    with torch.device("meta"):
        connector = Connector(config, WIDTH, HIDDEN)
    assert all(p.is_meta for p in connector.parameters())
    connector.to_empty(device="cpu")
    for parameter in connector.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    connector.reset_parameters(torch.Generator().manual_seed(3))
    twin = Connector(config, WIDTH, HIDDEN)
    twin.reset_parameters(torch.Generator().manual_seed(3))
    for (name, parameter), other in zip(connector.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other), name
        if name.endswith("bias") or name == "pad_embed":
            assert not parameter.any(), name
        elif projector is not ImageProjector.linear or "pooling" in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
    assert torch.equal(torch.get_rng_state(), before)

"""The picture encoder: patches, positions, which blocks run, precision and fresh weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from olmo.exceptions import OLMoInputError
from olmo.nn.image_vit import VisionTransformer, float32_attention, patchify, square_grid, unpatchify
from olmo.nn.vit_config import VitConfig
from olmo.nn.vit_presets import VitSpec

FAMILIES = ("openai", "siglip", "dino", "metaclip")
TINY = {"image_size": 24, "patch_size": 4, "d_model": 16, "n_heads": 2, "n_layers": 5, "mlp_hidden_size": 24}


def tiny_spec(family: str, **changes: int) -> VitSpec:
    return VitConfig.new(image_model_type=family, **{**TINY, **changes}).spec


def tiny_vit(family: str, seed: int = 0, **changes: int) -> VisionTransformer:
    vit = VisionTransformer(tiny_spec(family, **changes))
    vit.reset_parameters(torch.Generator().manual_seed(seed))
    return vit


def some_patches(spec: VitSpec, n: int = 2, n_patches: int | None = None) -> torch.Tensor:
    shape = (n, n_patches or spec.n_patches, 3 * spec.patch_size**2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_patches_are_row_major_and_pixels_are_row_column_channel() -> None:
    images = torch.arange(3 * 4 * 6).view(1, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (1, 6, 12)
    for patch in range(6):
        top, left = 2 * (patch // 3), 2 * (patch % 3)
        expected = [int(images[0, c, top + dy, left + dx]) for dy in (0, 1) for dx in (0, 1) for c in (0, 1, 2)]
        assert patches[0, patch].tolist() == expected


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,), (2, 0)])
def test_unpatchify_undoes_patchify(lead: tuple[int, ...]) -> None:
    images = torch.randn(*lead, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (*lead, 6, 48)
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_a_side_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(OLMoInputError, match=r"28x30.*14"):
        patchify(torch.zeros(1, 3, 28, 30), 14)


def test_square_grid() -> None:
    assert square_grid(576) == (24, 24)
    with pytest.raises(OLMoInputError, match="12 patches"):
        square_grid(12)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_family(family: str) -> None:
    vit = tiny_vit(family)
    names = set(vit.state_dict())
    assert ("class_embedding" in names) == (family != "siglip")
    assert ("pre_ln.weight" in names) == (family in ("openai", "metaclip"))
    assert ("patch_embedding.bias" in names) == (family in ("siglip", "dino"))
    assert ("blocks.0.lambda1" in names) == ("blocks.4.lambda2" in names) == (family == "dino")
    assert vit.positional_embedding.shape == (36 + (family != "siglip"), 16)
    assert vit.blocks[0].attention.wqkv.weight.shape == (48, 16)


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_blocks_in_the_asked_order(family: str) -> None:
    vit = tiny_vit(family)
    patches = some_patches(vit.spec)
    every = vit(patches, layers=range(5))
    chosen = vit(patches, layers=(-2, 0, -4))
    assert all(features.shape == (2, 36, 16) for features in every)
    for features, index in zip(chosen, (3, 0, 1), strict=True):
        assert torch.equal(features, every[index])


def test_blocks_behind_the_deepest_wanted_one_exist_but_do_not_run() -> None:
    vit = tiny_vit("openai")
    ran: list[int] = []
    for index, block in enumerate(vit.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    vit(some_patches(vit.spec), layers=(-2, -4))
    assert ran == [0, 1, 2, 3]
    assert "blocks.4.attention.wqkv.weight" in vit.state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_picture_alone_equals_the_same_in_a_batch(family: str) -> None:
    vit = tiny_vit(family)
    patches = some_patches(vit.spec, n=3)
    together = vit(patches, layers=(-1,))[0]
    alone = vit(patches[1:2], layers=(-1,))[0]
    torch.testing.assert_close(alone[0], together[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_native_positions_are_the_table_itself(family: str) -> None:
    vit = tiny_vit(family)
    assert vit.positions((6, 6)) is vit.positional_embedding


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grid", [(3, 3), (4, 9), (12, 12)])
def test_other_grids_run_and_keep_the_class_row(family: str, grid: tuple[int, int]) -> None:
    vit = tiny_vit(family)
    n_patches = grid[0] * grid[1]
    positions = vit.positions(grid)
    has_class_token = vit.spec.has_class_token
    assert positions.shape == (n_patches + has_class_token, 16)
    if has_class_token:
        assert torch.equal(positions[0], vit.positional_embedding[0])
    (features,) = vit(some_patches(vit.spec, n_patches=n_patches), layers=(0,), grid=grid)
    assert features.shape == (2, n_patches, 16)


def test_resized_positions_keep_rows_and_columns_apart() -> None:
    """A table that only depends on the row must still do so after resizing, and stay in order."""
    vit = tiny_vit("openai")
    rows = torch.arange(6.0).repeat_interleave(6)
    with torch.no_grad():
        vit.positional_embedding[1:] = rows[:, None]
    resized = vit.positions((3, 12))[1:].detach().view(3, 12, 16)
    torch.testing.assert_close(resized, resized[:, :1, :1].expand(3, 12, 16))
    assert (resized[1:, 0, 0] > resized[:-1, 0, 0]).all()
    # Averages of a linear ramp: halving six rows gives their pairwise means in the middle.
    assert resized[1, 0, 0].item() == pytest.approx(2.5, abs=1e-5)


def test_attention_of_low_precision_inputs_is_computed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 8, generator=generator).bfloat16() for _ in range(3))
    out = float32_attention(q, k, v)
    exact = (q.float() @ k.float().mT / 8**0.5).softmax(-1) @ v.float()
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), atol=0, rtol=1e-2)


def test_layer_norm_of_bfloat16_takes_its_sums_in_float32() -> None:
    """The encoder relies on this property of the kernel instead of casting itself."""
    norm = torch.nn.LayerNorm(192, eps=1e-5)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    norm.bfloat16()
    x = (100 + torch.randn(64, 192, generator=torch.Generator().manual_seed(1))).bfloat16()
    exact = torch.nn.functional.layer_norm(x.float(), (192,), norm.weight.float(), norm.bias.float(), 1e-5)
    # Large means make sums in bfloat16 useless (errors near 1); one last place is 0.0078 relative.
    torch.testing.assert_close(norm(x).float(), exact, atol=1e-3, rtol=2**-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_near_float32(family: str) -> None:
    vit = tiny_vit(family)
    patches = some_patches(vit.spec)
    exact = vit(patches, layers=(-1,))[0]
    rough = vit.bfloat16()(patches, layers=(-1,))[0]
    assert rough.dtype is torch.bfloat16
    assert (rough.float() - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_that_is_used_gets_a_gradient(family: str) -> None:
    vit = tiny_vit(family)
    vit(some_patches(vit.spec), layers=(-2,))[0].square().sum().backward()
    for name, parameter in vit.named_parameters():
        is_used = not name.startswith("blocks.4.")
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == is_used, name


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_weights_after_a_meta_build(family: str) -> None:
    with torch.device("meta"):
        vit = VisionTransformer(tiny_spec(family, d_model=64, mlp_hidden_size=128))
    assert all(p.is_meta for p in vit.parameters())
    vit.to_empty(device="cpu")
    for parameter in vit.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    vit.reset_parameters(torch.Generator().manual_seed(3))
    twin = tiny_vit(family, seed=3, d_model=64, mlp_hidden_size=128)
    for (name, parameter), other in zip(vit.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    assert vit.blocks[1].feed_forward.w1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert vit.positional_embedding.std().item() == pytest.approx(0.02, rel=0.1)
    assert not vit.blocks[1].attention.wo.bias.any()
    assert (vit.blocks[0].ffn_norm.weight == 1).all()
    if vit.spec.has_layer_scale:
        assert (vit.blocks[2].lambda1 == 1).all() and (vit.blocks[2].lambda2 == 1).all()


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    tiny_vit("dino")
    assert torch.equal(torch.get_rng_state(), before)


def test_layer_scale_scales_the_branches() -> None:
    vit = tiny_vit("dino")
    for block in vit.blocks:
        torch.nn.init.zeros_(block.lambda1)
        torch.nn.init.zeros_(block.lambda2)
    patches = some_patches(vit.spec)
    first, last = vit(patches, layers=(0, -1))
    assert torch.equal(first, last)


def test_zero_pictures_and_an_unknown_activation() -> None:
    vit = tiny_vit("openai")
    assert vit(some_patches(vit.spec, n=0), layers=(-1,))[0].shape == (0, 36, 16)
    with pytest.raises(Exception, match="'relu' is not one of"):
        VisionTransformer(dataclasses.replace(vit.spec, activation="relu"))

"""Encoder, padding marks, pooling and projector together, against numbers printed by the released Molmo v1 code.

The weights of a tiny model are made by a formula over the released (native) tensor names, the pixels by another one.
Tolerance 1e-5 absolute; measured worst case 6e-7.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_backbone import MolmoVisionBackbone
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.multicrop import make_crops
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

# name: tensors that sort before the vision backbone's, two token features of the released code
RELEASED = {
    "Qwen2-style": (18, {(0, 0): (-0.74436057, 0.19326106, 0.96892399, -0.59595376),
                         (4, 50): (-0.79231787, 0.19729149, 1.06597233, -0.64936215)}),
    "OLMo-style": (20, {(0, 0): (-0.74350917, 0.19292143, 0.96752173, -0.59518510)}),
}  # fmt: skip


def released_names(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The released tensors, in order, that our tensor is the concatenation of."""
    name = name.removeprefix("connector.").replace("image_vit.blocks.", "image_vit.transformer.resblocks.")
    if "wqkv" not in name:
        return {f"vision_backbone.{name}": shape}
    return {f"vision_backbone.{name.replace('wqkv', part)}": (shape[0] // 3, *shape[1:]) for part in ("wq", "wk", "wv")}


def made_tensor(number: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    element = np.arange(np.prod(shape), dtype=np.int64)
    values = 0.4 * (((element * 1103515245 + number * 12345 + 54321) % 2**31) / 2**31 - 0.5)
    is_norm = name.endswith(("norm.weight", "pre_ln.weight"))
    return torch.tensor(values + is_norm, dtype=torch.float32).view(shape)


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    y, x, c = np.ogrid[:354, :536, :3]
    clip = ImageSpec(
        image_size=336,
        patch_size=14,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    picture = ((3 * y + 5 * x + 7 * c) % 256).astype(np.uint8)
    crops = make_crops(picture, clip, MolmoPreprocessorConfig(legacy_image_mask=True))
    return torch.as_tensor(crops.images), torch.as_tensor(crops.masks)


@pytest.mark.parametrize("style", list(RELEASED))
def test_picture_tokens_equal_the_released_ones(style: str, pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    n_before, expected = RELEASED[style]
    vit = {"d_model": 32, "n_heads": 2, "n_layers": 10, "mlp_hidden_size": 64}
    backbone = MolmoVisionBackbone(
        MolmoVisionBackboneConfig.new(vit=vit), LlmConfig(d_model=32, n_heads=4, mlp_hidden_size=48)
    )
    parts = {name: released_names(name, tuple(tensor.shape)) for name, tensor in backbone.state_dict().items()}
    shapes = {name: shape for released in parts.values() for name, shape in released.items()}
    made = {name: made_tensor(n_before + i, name, shapes[name]) for i, name in enumerate(sorted(shapes))}
    backbone.load_state_dict({name: torch.cat([made[r] for r in released]) for name, released in parts.items()})
    with torch.no_grad():
        tokens = backbone(*pictures)
    assert tokens.shape == (5, 144, 32)
    for (crop, token), values in expected.items():
        torch.testing.assert_close(tokens[crop, token, :4], torch.tensor(values), atol=1e-5, rtol=0)

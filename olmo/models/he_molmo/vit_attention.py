"""How much attention each patch receives in the last layer that is read of a picture encoder.

Source: the training-free selection of VisionZip (Yang et al. 2025), here without a class token's share of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from olmo.models.picture_inputs import PictureInputs
from olmo.models.video_olmo.frames import crops_of
from olmo.nn.image_vit import VitAttention
from olmo.nn.vision_backbone import MolmoVisionBackbone


@torch.no_grad()
def attention_received(backbone: MolmoVisionBackbone, pictures: PictureInputs) -> Tensor:
    """Attention that the patches behind each feature received: mean over heads, queries and the pooling window.

    The encoder runs once more for it, as its kernels keep no attention.

    Args:
        backbone: encoder and connector.
        pictures: M crops with their facts.

    Returns:
        float32 `[M, entries]`, zeros behind the features that there are.
    """
    assert pictures.facts is not None, "frame_inputs gives them"
    kinds, kind_of = torch.unique(pictures.facts[:, 1:].long(), dim=0, return_inverse=True)
    n_entries = pictures.token_index.shape[1]
    result = torch.zeros(len(kind_of), n_entries, device=pictures.images.device)
    for number, (grid, high, wide) in enumerate(kinds.tolist()):
        members = (kind_of == number).nonzero()[:, 0]
        patches, sides = backbone.to_patches(crops_of(backbone, pictures, members, grid)[0])
        received = _in_last_layer(backbone, patches, sides).view(len(members), 1, *sides)
        means = nn.functional.avg_pool2d(received, (high, wide), ceil_mode=True, count_include_pad=False).flatten(1)
        result[members] = nn.functional.pad(means, (0, n_entries - means.shape[1]))
    return result


def _in_last_layer(backbone: MolmoVisionBackbone, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[M, P]` for `[M, P, pixels]`."""
    vit = backbone.image_vit
    attention = vit.blocks[max(layer % vit.spec.n_layers for layer in backbone.config.layers)].attention
    assert isinstance(attention, VitAttention), "blocks of a picture encoder have one"
    received: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: received.append(_received(attention, inputs[0])))
    try:
        backbone.encode(patches, grid)
    finally:
        handle.remove()
    return received[0][:, int(vit.spec.has_class_token) :]


def _received(attention: VitAttention, x: Tensor) -> Tensor:
    """Attention to each of `x` `[M, L, D]`, the mean over heads and queries; float32 `[M, L]`."""
    n, length, width = x.shape
    head_dim = width // attention.n_heads
    qkv = attention.wqkv(x).view(n, length, 3, attention.n_heads, head_dim)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [M, H, L, Dh]
    total = x.new_zeros(n, length, dtype=torch.float32)
    for head in range(attention.n_heads):  # a head at a time, so that not all scores are held at once
        scores = query[:, head] @ key[:, head].transpose(-1, -2) * head_dim**-0.5  # [M, L, L]
        total += torch.softmax(scores.float(), dim=-1).mean(dim=1)
    return total / attention.n_heads

"""`torch.compile`, one block at a time: blocks of a list share their code, so the first compilation serves all.

The whole model is not compiled: pictures and lengths change from batch to batch, and the parts around the blocks branch
on them. The compiled `forward` sits on the instance, so no parameter gets another name.
"""

from __future__ import annotations

import torch
from torch import nn

from olmo.train.parallel.activation_checkpointing import transformer_blocks


def compile_blocks(module: nn.Module) -> int:
    """Compile the forward of every transformer block below `module`.

    Call it before activation checkpointing and sharding are applied. Blocks with routed experts are compiled in pieces,
    because how many tokens an expert gets is known only when it runs.

    Returns:
        How many blocks were changed.
    """
    blocks = [block for _, block in transformer_blocks(module)]
    for block in blocks:
        block.forward = torch.compile(block.forward)
    return len(blocks)

"""Linear layers that wait for their weights.

`nn.Linear` draws random weights when it is made. Here the model draws them all at once from a given generator, or a
checkpoint brings them, so the first draw would cost time and disturb the global random state for nothing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import skip_init


def linear(in_features: int, out_features: int, bias: bool = False) -> nn.Linear:
    """An `nn.Linear` on the current default device whose values are not set yet."""
    layer = skip_init(nn.Linear, in_features, out_features, bias=bias, device=torch.get_default_device())
    assert isinstance(layer, nn.Linear)
    return layer

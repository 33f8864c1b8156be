"""Projectors: from the width of pooled picture features to the width of the language model.

It knows nothing of pictures or of the language model beyond two widths.

Source: Shazeer 2020 (SwiGLU); Deitke et al. 2024 (Molmo), section 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from olmo.nn.image_vit import init_linear
from olmo.nn.linear import linear
from olmo.nn.vision_config import ImageProjector


class MlpProjector(nn.Module):
    """SwiGLU without biases: `w2(silu(w1 x) * w3 x)`; `w1` is the gate."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.w1 = linear(input_dim, hidden_dim)
        self.w2 = linear(hidden_dim, output_dim)
        self.w3 = linear(input_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., C]` to `[..., D]`."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: normal with deviation 0.02."""
        for layer in (self.w1, self.w2, self.w3):
            init_linear(layer, generator)


class TwoMlpProjector(nn.Module):
    """A SwiGLU to the width of the language model, then a second one that is added to the first one's result."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.first = MlpProjector(input_dim, hidden_dim, output_dim)
        self.second = MlpProjector(output_dim, hidden_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., C]` to `[..., D]`."""
        x = self.first(x)
        return x + self.second(x)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: normal with deviation 0.02."""
        self.first.reset_parameters(generator)
        self.second.reset_parameters(generator)


class LinearProjector(nn.Linear):
    """One matrix without a bias."""

    def __init__(self, input_dim: int, output_dim: int, device: torch.device | str | None = None) -> None:
        super().__init__(input_dim, output_dim, bias=False, device=device)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw a fresh matrix, Xavier uniform. Source: Glorot and Bengio 2010, equation 16."""
        nn.init.xavier_uniform_(self.weight, generator=generator)


Projector = MlpProjector | TwoMlpProjector | LinearProjector


def build_projector(kind: ImageProjector, input_dim: int, hidden_dim: int, output_dim: int) -> Projector:
    """The projector that `kind` names; `linear` has no use for `hidden_dim`."""
    if kind is ImageProjector.linear:
        projector = skip_init(LinearProjector, input_dim, output_dim, device=torch.get_default_device())
        assert isinstance(projector, LinearProjector), "skip_init makes the class it is given"
        return projector
    if kind is ImageProjector.two_mlp:
        return TwoMlpProjector(input_dim, hidden_dim, output_dim)
    return MlpProjector(input_dim, hidden_dim, output_dim)

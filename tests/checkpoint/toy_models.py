"""Small modules with the traits that make checkpoints hard: tied weights, buffers, several data types, meta tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Toy(nn.Module):
    """A few tensors of different kinds. The head shares its matrix with the table."""

    def __init__(self, width: int = 8, is_tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(12, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor([3, 4]))
        self.head = nn.Linear(width, 12, bias=False)
        if is_tied:
            self.head.weight = self.table.weight


def toy(seed: int = 0, **kwargs: object) -> Toy:
    """A toy with random weights."""
    torch.manual_seed(seed)
    model = Toy(**kwargs)
    with torch.no_grad():
        model.scale.fill_(1.5 + seed)
        model.count.add_(seed)
    return model


def empty_toy(**kwargs: object) -> Toy:
    """A toy without memory."""
    with torch.device("meta"):
        return Toy(**kwargs)


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a module that later changes do not reach."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Same names, data types and bits."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name

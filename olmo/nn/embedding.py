"""Token embeddings in two tables: the base vocabulary and the rows that Molmo adds behind it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Looks up ids in the base table, and ids past its end in the second one.

    The tables are two so that the added rows can be trained at their own rate, and because the output head covers the
    base table alone.

    Args:
        n_base: Rows of the base table.
        n_new: Rows of the second table; with 0 there is none.
        dim: Width D.
    """

    new_embedding: nn.Parameter | None

    def __init__(self, n_base: int, n_new: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(n_base, dim))
        self.register_parameter("new_embedding", nn.Parameter(torch.empty(n_new, dim)) if n_new else None)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed `input_ids` `[...]`, below `n_base + n_new`, as `[..., D]`; negative ids (padding) take row 0."""
        ids = input_ids.clamp(min=0)
        if self.new_embedding is None:
            return F.embedding(ids, self.embedding)
        # Both tables are asked and one answer taken: joining the tables would copy gigabytes, branching would wait for
        # the device.
        new_ids = ids - self.embedding.shape[0]
        base = F.embedding(ids.clamp(max=self.embedding.shape[0] - 1), self.embedding)
        new = F.embedding(new_ids.clamp(min=0), self.new_embedding)
        return torch.where((new_ids >= 0).unsqueeze(-1), new, base)

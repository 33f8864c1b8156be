"""Which blocks of the ViT learn at which step. Pure rules on parameter names; the trainer applies them.

A frozen block gets no gradient, so the optimizer neither moves nor remembers it: its moments begin when it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from olmo.exceptions import OLMoConfigurationError

_BLOCK = re.compile(r"image_vit\..*?\bblocks\.(\d+)\.")
_FORM = "a phase is [first step, number of last ViT blocks that learn from then on, or all], such as [2000, 4]"


def parse_phases(given: Sequence[Any]) -> tuple[tuple[int, int | None], ...]:
    """Phases `(first step, blocks)` of a recipe, blocks None for all.

    Raises:
        OLMoConfigurationError: not of this form, or not in the order of their steps.
    """
    phases: list[tuple[int, int | None]] = []
    for i, phase in enumerate(given):
        if not isinstance(phase, list | tuple) or len(phase) != 2:
            raise OLMoConfigurationError(f"{_FORM}; got {phase!r}", f"unfreeze_schedule.{i}")
        step, blocks = phase
        is_count = _is_count(blocks) or blocks == "all"
        if not _is_count(step) or not is_count:
            raise OLMoConfigurationError(f"{_FORM}; got {phase!r}", f"unfreeze_schedule.{i}")
        if phases and step <= phases[-1][0]:
            raise OLMoConfigurationError(
                f"steps must rise from phase to phase; {step} follows {phases[-1][0]}", f"unfreeze_schedule.{i}"
            )
        phases.append((step, None if blocks == "all" else blocks))
    return tuple(phases)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class UnfreezeSchedule:
    """Gradual unfreezing of the ViT from its end.

    Attributes:
        phases: `(first step, blocks)` in the order of their steps; None means the whole ViT with its embeddings. Before
            the first phase nothing of the ViT learns. Empty: the whole ViT learns from the start.
        n_blocks: blocks up to the deepest one that the connector reads; those behind it never have a gradient.
    """

    phases: tuple[tuple[int, int | None], ...]
    n_blocks: int

    def blocks_at(self, step: int) -> int | None:
        """Number of last blocks that learn in `step` (0-based); None for the whole ViT."""
        if not self.phases:
            return None
        return next((blocks for first, blocks in reversed(self.phases) if first <= step), 0)

    def learns(self, name: str, step: int) -> bool:
        """Whether the ViT parameter `name` learns in `step`; the embeddings in front of the blocks learn last."""
        blocks = self.blocks_at(step)
        if blocks is None:
            return True
        found = _BLOCK.search(name)
        return found is not None and int(found.group(1)) >= self.n_blocks - blocks

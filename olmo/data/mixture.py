"""`Mixture`: an endless stream of examples drawn from several sources. Example i is a function of the seed and of i.

There is no state. The stream is cut into blocks of about `BLOCK` examples. How often a source appears before block b is
a closed formula, so the number of an example within its source, and with it the row and the pass, need no counting; the
order within a block is drawn from a generator that is seeded by the block. Every source keeps to its rate within one
example at every block's border, which independent draws would not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from olmo.data.mixture_config import MixtureConfig
from olmo.data.permutation import mixed, permuted
from olmo.data.source import Source, open_source
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

BLOCK = 1024
_ONE = 1 << 48  # rates are whole numbers of this, so that no rounding differs between machines
_PHASE_SALT, _ORDER_SALT, _BLOCK_SALT = 11, 12, 13


class Place(NamedTuple):
    """Where an example of the stream comes from: index of its source, row there, and pass over the source from 0."""

    source: int
    row: int
    epoch: int


class Mixture:
    """Examples of several sources, each at its rate, without end.

    Attributes:
        sources: the sources.
        rates: share of the stream that comes from each; they sum to 1.
    """

    def __init__(self, sources: Sequence[Source], rates: Sequence[float], seed: int, is_shuffled: bool = True) -> None:
        """Mix.

        Args:
            sources: where examples come from; none is empty.
            rates: how often each is drawn, relative to the others, 0 or more.
            seed: names the stream, 0 or more.
            is_shuffled: draw the order of rows anew for each pass over a source; False keeps their own.

        Raises:
            OLMoConfigurationError: no sources, rates that are negative or sum to nothing, or an empty source.
        """
        if not sources or len(sources) != len(rates):
            raise OLMoConfigurationError(f"a mixture needs a rate for each source, got {len(rates)} for {len(sources)}")
        if any(not 0 <= rate < math.inf for rate in rates) or not sum(rates) > 0:
            raise OLMoConfigurationError(f"rates must be 0 or more and sum to more than nothing, got {list(rates)}")
        if seed < 0:
            raise OLMoConfigurationError(f"must be 0 or more, got {seed}", "seed")
        for source in sources:
            if len(source) < 1:
                raise OLMoConfigurationError(f"source {source.name!r} is empty; take it out or give it rows")
        self.sources = list(sources)
        self.rates = [rate / sum(rates) for rate in rates]
        self.seed = seed
        self.is_shuffled = is_shuffled
        self._parts = [round(rate * _ONE) for rate in self.rates]
        # Where in its cycle each source begins, so that rare ones do not all come at once.
        self._phases = [mixed(seed, _PHASE_SALT, k) % _ONE for k in range(len(sources))]
        self._start = 0  # of the block laid out last
        self._members = np.empty(0, dtype=np.int64)
        self._numbers = np.empty(0, dtype=np.int64)

    @property
    def n_rows(self) -> int:
        """Rows of all sources that are drawn from at all: the examples of one pass over a mixture of one source."""
        return sum(len(source) for source, rate in zip(self.sources, self.rates, strict=True) if rate)

    def locate(self, index: int) -> Place:
        """Where example `index` of the stream comes from; `index` is 0 or more."""
        if index < 0:
            raise IndexError(f"index {index} is below 0")
        if not self._start <= index < self._start + len(self._members):
            self._open_block(self._block_of(index))
        place = index - self._start
        source = int(self._members[place])
        epoch, row = divmod(int(self._numbers[place]), len(self.sources[source]))
        if self.is_shuffled:
            row = permuted(row, len(self.sources[source]), mixed(self.seed, _ORDER_SALT, source, epoch))
        return Place(source, row, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example `index` of the stream, as its source gives it.

        `metadata` also gets `epoch`, the pass over the source, and `place`, where a person finds the row.

        Raises:
            OLMoInputError: the row is broken; the message says which.
        """
        source, row, epoch = self.locate(index)
        place = self.sources[source].place(row)
        try:
            example = self.sources[source].at(row, epoch)
        except OSError as error:
            raise OLMoInputError(f"{place}: {error}") from error
        return {**example, "metadata": {**example.get("metadata", {}), "epoch": epoch, "place": place}}

    def _count(self, source: int, block: int) -> int:
        """Examples of a source before a block."""
        return (block * BLOCK * self._parts[source] + self._phases[source]) // _ONE

    def _start_of(self, block: int) -> int:
        """Index of a block's first example. Blocks differ in length by at most one example a source."""
        return sum(self._count(source, block) for source in range(len(self.sources)))

    def _block_of(self, index: int) -> int:
        block = index // BLOCK
        while self._start_of(block) > index:
            block -= 1
        while self._start_of(block + 1) <= index:
            block += 1
        return block

    def _open_block(self, block: int) -> None:
        """Lay out the sources of a block, and the number of each example within its source."""
        firsts = [self._count(source, block) for source in range(len(self.sources))]
        counts = [self._count(source, block + 1) - first for source, first in enumerate(firsts)]
        order = np.random.default_rng([self.seed, _BLOCK_SALT, block + 1]).permutation(sum(counts))
        members = np.repeat(np.arange(len(counts)), counts)[order]
        numbers = np.empty_like(members)
        for source, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            numbers[members == source] = np.arange(first, first + count)
        self._start, self._members, self._numbers = sum(firsts), members, numbers


def open_mixture(config: MixtureConfig, seed: int, base_dir: str | Path | None = None) -> Mixture:
    """The mixture that a recipe describes.

    Args:
        config: groups of sources.
        seed: names the stream.
        base_dir: folder that relative paths start from, as a rule that of the recipe.

    Raises:
        OLMoInputError: a source is missing, empty or cannot be read.
        OLMoConfigurationError: rates that sum to nothing.
    """
    sources: list[Source] = []
    rates: list[float] = []
    groups = [group for group in config.resolved_groups() if group.weight]
    for group in groups:
        opened = [open_source(source, base_dir) for source in group.sources]
        own = [
            math.sqrt(given.rate_size or len(source)) if given.rate is None else given.rate
            for given, source in zip(group.sources, opened, strict=True)
        ]
        share = group.weight / sum(g.weight for g in groups)
        sources += opened
        rates += [share * rate / sum(own) for rate in own]
    return Mixture(sources, rates, seed, config.is_shuffled)

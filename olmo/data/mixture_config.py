"""`MixtureConfig`: which sources a run draws from, and how often each, as a recipe writes it down."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from olmo.config import BaseConfig
from olmo.data.source_config import SourceConfig
from olmo.exceptions import OLMoConfigurationError


@dataclass(kw_only=True)
class GroupConfig(BaseConfig):
    """Sources that share one part of the mixture."""

    name: str
    """What messages call the group."""

    weight: float = 1.0
    """Share of the examples that come from this group, relative to the other groups; 0 or more."""

    sources: list[SourceConfig]
    """Sources of the group. Each is drawn in proportion to the square root of its size, or where the sources say
    `rate`, in proportion to that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < math.inf:
            raise OLMoConfigurationError(f"must be 0 or more, got {self.weight}", "weight")
        if not self.sources:
            raise OLMoConfigurationError(f"group {self.name!r} has no sources; list at least one", "sources")
        given = [source.rate is not None for source in self.sources]
        if any(given) and not all(given):
            raise OLMoConfigurationError(
                f"group {self.name!r}: {sum(given)} of {len(given)} sources give a 'rate'; rates and square roots of "
                "sizes cannot be compared, so give a rate to every source of a group or to none",
                f"sources.{given.index(False)}.rate",
            )
        if all(given) and not any(source.rate for source in self.sources):
            raise OLMoConfigurationError(
                f"group {self.name!r}: the rates sum to nothing; give one source a rate above 0", "sources"
            )


@dataclass(kw_only=True)
class MixtureConfig(BaseConfig):
    """What a run learns from: `groups` of sources, or for a mixture of one group its `sources` alone."""

    groups: list[GroupConfig] = field(default_factory=list)
    """Groups with a weight each."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Sources of the only group; in place of `groups`."""

    is_shuffled: bool = True
    """Go through the rows of each source in an order that is drawn anew for each pass; false keeps their own order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.groups) == bool(self.sources):
            both = "both are given" if self.groups else "neither is given"
            raise OLMoConfigurationError(f"a mixture has either 'groups' or 'sources', and {both}", "sources")
        if self.sources:
            GroupConfig(name="sources", sources=self.sources)  # refuses what a group refuses
        elif not any(group.weight for group in self.groups):
            raise OLMoConfigurationError(
                f"the weights of {len(self.groups)} groups sum to nothing; give one a weight above 0", "groups"
            )

    def resolved_groups(self) -> list[GroupConfig]:
        """The groups, also where the recipe gives flat sources."""
        return self.groups or [GroupConfig(name="all", sources=self.sources)]

"""What the configurations of scenes and of moving scenes check alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


def check_ranges(config: BaseConfig, ranges: Iterable[tuple[str, float, float]]) -> None:
    """Raise OLMoConfigurationError for a field that is not within its (name, lowest, highest)."""
    for name, low, high in ranges:
        value = getattr(config, name)
        if not low <= value <= high:
            raise OLMoConfigurationError(f"{value} is out of range; allowed: {low} to {high}", name)


def check_art(art: list[str]) -> None:
    """Raise OLMoConfigurationError where there is no style to draw in."""
    if not art:
        raise OLMoConfigurationError("must name at least one style", "art")


def checked_weights(weights: Mapping[str, float], tasks: type[ConfigEnum]) -> dict[str, float]:
    """Weights under the names of the tasks.

    Raises:
        OLMoConfigurationError: an unknown task, a weight below 0, or none above it.
    """
    checked = {tasks.parse(name).value: weight for name, weight in weights.items()}
    if not any(weight > 0 for weight in checked.values()) or any(weight < 0 for weight in checked.values()):
        raise OLMoConfigurationError("weights must be 0 or more, and one of them above 0", "task_weights")
    return checked

"""The errors a user can meet.

Every mistake in what a user hands in (a file, a key, a shape) raises one of these, with what is wrong, the value seen,
what is allowed and what to do next. `assert` is kept for our own bugs.
"""

from __future__ import annotations


class OLMoError(Exception):
    """Base of every error that this package raises on purpose."""


class OLMoConfigurationError(OLMoError):
    """A configuration value or key is wrong.

    Attributes:
        path: dotted path of the field the message is about, or "" for the configuration as a whole.
        reason: the message without the path.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = path
        super().__init__(f"{path}: {reason}" if path else reason)

    def under(self, prefix: str) -> OLMoConfigurationError:
        """The same error seen from a parent configuration that holds this one at `prefix`."""
        return OLMoConfigurationError(self.reason, ".".join(p for p in (prefix, self.path) if p))


class OLMoInputError(OLMoError):
    """A picture, a prompt or a tensor cannot be used as given."""


class OLMoCheckpointError(OLMoError):
    """A checkpoint is missing, incomplete, or does not fit the model."""


class OLMoTrainingError(OLMoError):
    """A training run cannot go on: a loss that is not a number, a run folder in use, a step without a target."""

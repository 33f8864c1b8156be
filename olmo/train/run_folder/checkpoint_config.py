"""When a run saves, how many checkpoints stay, and where they go."""

from __future__ import annotations

from dataclasses import dataclass

from olmo.config import BaseConfig
from olmo.exceptions import OLMoConfigurationError


@dataclass(kw_only=True)
class CheckpointConfig(BaseConfig):
    """Checkpoints of a training run."""

    every_steps: int = 500
    """Steps between checkpoints; the last step is always saved."""

    every_seconds: float = 0.0
    """Also save when this many seconds have passed since the last checkpoint; 0 goes by steps alone."""

    keep_last: int = 2
    """Complete checkpoints that stay; an older one is removed once a newer one is complete. 0 keeps all."""

    is_async: bool = False
    """Copy the state, then write it while training goes on; takes the memory of a second copy on the CPU."""

    is_verified: bool = True
    """Compare every file with its checksum before loading."""

    folder: str | None = None
    """Where the step folders go: a path, or an fsspec URL such as `s3://bucket/run`; by default the run folder."""

    staging_folder: str | None = None
    """Folder on this machine through which checkpoints pass on their way to and from a URL; by default the system's
    folder for temporary files. Needs room for one checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every_steps < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.every_steps}", "every_steps")
        for name in ("every_seconds", "keep_last"):
            if getattr(self, name) < 0:
                raise OLMoConfigurationError(f"must not be negative, got {getattr(self, name)}", name)

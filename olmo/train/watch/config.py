"""Configuration of what a run shows and writes about itself: console, JSON lines, TensorBoard, Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


class ConsoleMode(ConfigEnum):
    """How a run speaks to whoever started it."""

    auto = "auto"
    rich = "rich"
    plain = "plain"
    none = "none"


class WandbMode(ConfigEnum):
    """Whether Weights & Biases sends what it logs."""

    online = "online"
    offline = "offline"


@dataclass(kw_only=True)
class WandbConfig(BaseConfig):
    """Weights & Biases. Needs the extra `wandb`."""

    project: str
    """Project that the run appears in."""

    entity: str | None = None
    """User or team; None leaves the account's own."""

    name: str | None = None
    """Name of the run; None takes the name of the run folder."""

    mode: WandbMode = WandbMode.online
    """`online`, or `offline`: files in the run folder that `wandb sync` sends later."""


@dataclass(kw_only=True)
class OverfittingConfig(BaseConfig):
    """When a run is said to overfit: the validation loss rises while the training loss falls."""

    metric: str = "loss"
    """Name of the result of an evaluation to look at, lower is better; `loss` also finds `<task>/loss`."""

    patience: int = 2
    """Evaluations in a row above the lowest one before the warning, at least 1."""

    min_rise: float = 0.005
    """Smallest rise above the lowest one that counts, as a share of it, 0 or more."""

    stop: bool = False
    """End the run with the warning, after a last checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.patience}", "patience")
        if self.min_rise < 0:
            raise OLMoConfigurationError(f"must be 0 or more, got {self.min_rise}", "min_rise")


@dataclass(kw_only=True)
class WatchConfig(BaseConfig):
    """What a run shows and writes about itself. `metrics.jsonl` in the run folder is always written."""

    every_steps: int = 20
    """Steps that one line of metrics stands for, at least 1: losses are averaged, rates are taken over all of them."""

    console: ConsoleMode = ConsoleMode.auto
    """`rich` redraws a progress display, `plain` prints a line every `every_steps` steps, `none` is silent; `auto` is
    `rich` on a terminal and `plain` elsewhere."""

    tensorboard: bool = False
    """Write TensorBoard event files to `<run_dir>/tensorboard`. Needs the extra `tensorboard`."""

    wandb: WandbConfig | None = None
    """Log to Weights & Biases; None does not."""

    overfitting: OverfittingConfig | None = field(default_factory=OverfittingConfig)
    """When to warn of overfitting; None never does. It speaks only where the run evaluates."""

    peak_tflops: float | None = None
    """Peak of one device in TFLOP/s, above 0, which MFU is a share of; None looks it up for known GPUs and measures it
    on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every_steps < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.every_steps}", "every_steps")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise OLMoConfigurationError(f"must be above 0, got {self.peak_tflops}", "peak_tflops")

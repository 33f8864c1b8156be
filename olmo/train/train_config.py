"""Configuration of a training run: what is trained, on what, for how long, how fast. One YAML file is one recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.exceptions import OLMoConfigurationError


class TrainTaskName(ConfigEnum):
    """What the loss is."""

    patch_naming = "patch_naming"
    language = "language"


@dataclass(kw_only=True)
class ComponentConfig(BaseConfig):
    """Learning rate of one part of the model."""

    lr: float = 1e-4
    """Peak learning rate."""

    warmup_steps: int = 200
    """Steps of linear warm-up."""

    is_frozen: bool = False
    """Keep this part bit-identical."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr <= 0:
            raise OLMoConfigurationError(
                f"must be above 0, got {self.lr}; to stop a part from learning set is_frozen", "lr"
            )


@dataclass(kw_only=True)
class OptimizerConfig(BaseConfig):
    """AdamW with one learning rate, warm-up and clipping norm for each of connector, ViT and LLM."""

    connector: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=2e-4, warmup_steps=200))
    """Padding embedding, pooling, projector and the extra-vocabulary table."""

    vit: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=6e-6, warmup_steps=2000))
    """Picture encoder."""

    llm: ComponentConfig = field(default_factory=lambda: ComponentConfig(lr=2e-5, warmup_steps=2000))
    """Language model."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""

    beta2: float = 0.95
    """Decay of the mean of squared gradients."""

    eps: float = 1e-6
    """Added to the root of the mean square."""

    weight_decay: float = 0.0
    """Decoupled decay of matrices; vectors and norms never decay."""

    clip_norm: float = 1.0
    """Largest gradient norm, taken separately for each component; 0 switches clipping off."""

    final_lr_ratio: float = 0.1
    """Share of the peak learning rate that the cosine ends at."""


@dataclass(kw_only=True)
class TrainConfig(BaseConfig):
    """A training run."""

    task: TrainTaskName
    """`patch_naming` trains the ViT alone to say what each patch shows; `language` trains the whole model."""

    model: str
    """Configuration of the model: a YAML file or a folder with config.yaml, relative to this file."""

    run_dir: str
    """Folder for checkpoints and metrics, relative to the working directory."""

    init_from: str | None = None
    """Checkpoint folder to start from, relative to the working directory; it may hold a part of the model only."""

    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The pictures and questions."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates and clipping."""

    batch_size: int = 16
    """Pictures a step."""

    max_steps: int = 1000
    """Steps in all; a resumed run may change it."""

    first_example: int = 0
    """Index of the first example, so that a later stage sees other pictures than an earlier one."""

    seed: int = 6198
    """Seed of initialisation, data order and dropout."""

    z_loss: float = 0.0
    """Coefficient of the softmax z-loss of the language task."""

    save_every: int = 500
    """Steps between checkpoints."""

    log_every: int = 20
    """Steps between lines of metrics."""

    n_workers: int = 1
    """Processes that prepare batches; 0 prepares them in the training process."""

    n_threads: int = 0
    """Threads of CPU arithmetic; 0 leaves PyTorch's choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "max_steps", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {getattr(self, name)}", name)

"""Configuration of a training run: what is trained, on what, for how long, how fast. One YAML file is one recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from olmo.config import BaseConfig, ConfigEnum
from olmo.data.loader import OnBadExample
from olmo.data.mixture_config import MixtureConfig
from olmo.data.source_config import SourceConfig
from olmo.exceptions import OLMoConfigurationError
from olmo.train.lora.config import LoraConfig
from olmo.train.optim.config import OptimizerConfig
from olmo.train.optim.selection import SelectionConfig
from olmo.train.optim.unfreeze import parse_phases
from olmo.train.parallel.activation_checkpointing import ActivationCheckpointing
from olmo.train.parallel.config import ParallelConfig
from olmo.train.run_folder.checkpoint_config import CheckpointConfig
from olmo.train.watch.config import WatchConfig


class TrainTaskName(ConfigEnum):
    """What the loss is."""

    patch_naming = "patch_naming"
    language = "language"
    grounded_language = "grounded_language"
    selected_language = "selected_language"


class Precision(ConfigEnum):
    """Arithmetic of forward and backward. Weights, moments and the sum of gradients are float32 in both."""

    fp32 = "fp32"
    amp_bf16 = "amp_bf16"


class BadStepPolicy(ConfigEnum):
    """What to do with a step whose loss or gradient is not a finite number."""

    stop = "stop"
    skip = "skip"


@dataclass(kw_only=True)
class EvaluationConfig(BaseConfig):
    """Evaluation inside a run: losses on data that is not trained on, and tasks that are answered and scored."""

    every_steps: int = 1000
    """Steps between evaluations, at least 1; there is one at the end too."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Data whose loss is taken, each under the name `<source>/loss`."""

    n_examples: int = 64
    """Examples of each source, at least 1, from its start: the same ones each time."""

    tasks: list[str] = field(default_factory=list)
    """Tasks as `molmo eval` takes them: a name such as `scenes`, or `file.jsonl:metric`."""

    task_limit: int = 50
    """Examples of each task, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every_steps", "n_examples", "task_limit"):
            if getattr(self, name) < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {getattr(self, name)}", name)


@dataclass(kw_only=True)
class TrainConfig(BaseConfig):
    """A training run."""

    task: TrainTaskName = TrainTaskName.language
    """`language`: the whole model, on answers; `grounded_language`: besides, the picture tokens of Scenes name what
    they show; `selected_language`: the whole of a HeMolmo, with its choice of picture tokens; `patch_naming`: the ViT
    alone, to say what patches of Scenes show."""

    model: str | None = None
    """Configuration of the model: a YAML file or a folder with config.yaml, relative to this file. None: that of
    `init_from`."""

    model_overrides: list[str] = field(default_factory=list)
    """Dotted changes of the model's configuration, such as `llm.residual_dropout=0.1`."""

    run_dir: str
    """Folder for checkpoints and metrics, relative to the working directory."""

    init_from: str | None = None
    """Weights to start from: a checkpoint folder (it may hold a part of the model only), relative to the working
    directory, or a folder or hub id in the released layout, or the name of a bundled model, such as `molmo-nano`."""

    init_llm: str | None = None
    """Published language model to start from: folder or hub id. Excludes `init_from`."""

    init_vit: str | None = None
    """Published picture encoder to start from: folder or hub id. Excludes `init_from`."""

    data: MixtureConfig
    """What is trained on. See `SourceConfig` for where paths start."""

    evaluation: EvaluationConfig | None = None
    """Evaluation inside the run; None takes none."""

    batch_size: int = 16
    """Examples a step, over all processes."""

    micro_batch_size: int | None = None
    """Rows in one forward pass of one process; None takes its whole share of the step at once. The result is the
    same."""

    max_steps: int | None = None
    """Steps in all; a resumed run may raise it. Exactly one of max_steps and epochs is given."""

    epochs: float | None = None
    """Length of the run in passes over as many examples as all sources hold together."""

    first_example: int = 0
    """Index of the first example, so that a later stage sees other pictures than an earlier one."""

    sequence_length: int | None = None
    """Longest row in tokens; longer text is cut, pictures never. None: the model's context."""

    pack: bool = False
    """Put several examples into one row as long as they fit `sequence_length`. The loss is the same."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates and clipping."""

    unfreeze_schedule: list[Any] = field(default_factory=list)
    """Phases `[first step, number of last ViT blocks that learn]`, the number may be `all`. Empty: the whole ViT learns
    from the start."""

    precision: Precision = Precision.fp32
    """`fp32`, or `amp_bf16`: bfloat16 arithmetic over float32 weights."""

    activation_checkpointing: ActivationCheckpointing | None = None
    """Which blocks are computed again in the backward pass to save memory; None: none."""

    compile: bool = False
    """Compile each block with `torch.compile`."""

    ema_decay: float | None = None
    """Keep a moving average of the weights with this decay, in (0, 1), and export that. None keeps none."""

    z_loss: float = 0.0
    """Coefficient of the softmax z-loss of the language task, 0 or more; 1e-4 in the released models."""

    grounding_weight: float = 0.5
    """Weight of the second loss of `grounded_language`, above 0."""

    event_weight: float = 0.0
    """Weight of the third loss of `grounded_language`, 0 or more, for clips of moving scenes: inside the language model
    picture tokens have to know what becomes of the thing that they show. 0 leaves it out."""

    event_layer: int = 2
    """Number of blocks of the language model after which that loss is taken; at least 1 and less than all."""

    mention_weight: float = 0.0
    """Weight of the fourth loss of `grounded_language`, 0 or more, for pictures and clips of Scenes: one block further
    up than `event_layer` the words of a question have to know what is true of the thing that they name. 0 leaves it
    out."""

    selection: SelectionConfig | None = None
    """The course of `selected_language`; None: its defaults."""

    on_nan: BadStepPolicy = BadStepPolicy.stop
    """Loss or gradient not finite: `stop` saves the batch and ends with an error; `skip` leaves the weights alone."""

    max_bad_steps: int = 5
    """With `on_nan: skip`: this many bad steps in a row end the run, at least 1."""

    on_bad_example: OnBadExample = OnBadExample.stop
    """An example that cannot be used: `raise` ends the run with an error that names it; `skip` goes on without it and
    counts."""

    seed: int = 6198
    """Seed of initialisation, data order and dropout."""

    n_workers: int = 1
    """Processes that prepare batches, for each training process; 0 prepares them in the training process."""

    n_threads: int = 0
    """Threads of CPU arithmetic; 0 leaves PyTorch's choice."""

    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How several processes share the work."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and how many are kept."""

    watch: WatchConfig = field(default_factory=WatchConfig)
    """What the run shows and logs."""

    lora: LoraConfig | None = None
    """Train small adapters in place of the weights; None trains the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers()
        parse_phases(self.unfreeze_schedule)
        if (self.max_steps is None) == (self.epochs is None):
            raise OLMoConfigurationError("give one of max_steps and epochs", "max_steps")
        if self.model is None and self.init_from is None:
            raise OLMoConfigurationError("is required where there is no init_from to take it from", "model")
        if self.init_from is not None and (self.init_llm or self.init_vit):
            raise OLMoConfigurationError(
                "holds the whole model; it goes without init_llm and init_vit, which build a new one", "init_from"
            )

        if self.selection is not None and self.task is not TrainTaskName.selected_language:
            raise OLMoConfigurationError(
                f"belongs to task: selected_language, and task is {self.task.value}; change that or leave this out",
                "selection",
            )

    def _check_numbers(self) -> None:
        for name in ("batch_size", "micro_batch_size", "max_steps", "sequence_length", "event_layer", "max_bad_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {value}", name)
        for name in ("first_example", "n_workers", "n_threads", "z_loss", "event_weight", "mention_weight", "seed"):
            if getattr(self, name) < 0:
                raise OLMoConfigurationError(f"must be 0 or more, got {getattr(self, name)}", name)
        if not 0 < self.grounding_weight < math.inf:
            raise OLMoConfigurationError(f"must be above 0, got {self.grounding_weight}", "grounding_weight")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise OLMoConfigurationError(f"must be above 0, got {self.epochs}", "epochs")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise OLMoConfigurationError(f"must lie in (0, 1), got {self.ema_decay}", "ema_decay")

    def n_steps(self, n_examples: int) -> int:
        """Steps of the run over data of `n_examples` examples, which matters where `epochs` is given."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.epochs is not None, "checked at construction"
        return max(1, math.ceil(self.epochs * n_examples / self.batch_size))

"""What a run will take, before anything of it starts: tokens, parameters, arithmetic and memory. No weight is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from olmo.data.loader import StepLoader
from olmo.exceptions import OLMoError
from olmo.models.auto import model_class
from olmo.models.base import ModelBase
from olmo.models.flops import PARTS, forward_flops, training_flops
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.video_olmo.budget import CropKind, crop_flops
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.train.lora.adapters import apply_lora
from olmo.train.optim.adamw import component_configs, freeze
from olmo.train.parallel.activation_checkpointing import transformer_blocks
from olmo.train.parallel.config import FloatName
from olmo.train.parallel.processes import Layout, plan_layout
from olmo.train.plan.memory import BFLOAT16, FLOAT32, MicroBatch, TrainMemory, activation_bytes
from olmo.train.run import TASKS, first_config
from olmo.train.task import Batch, TrainTask
from olmo.train.tasks.questions import IS_REPEAT
from olmo.train.train_config import Precision, TrainConfig

N_LOOKED_AT = 16
"""Examples that are prepared to see how long they are."""

DEVICES_A_MACHINE = 8


@dataclass(frozen=True)
class Sizes:
    """What examples look like: means over some of them.

    Attributes:
        n_tokens: tokens of an example.
        longest: tokens of the longest one.
        n_crops: crops of pictures, and frames.
        n_targets: tokens with a loss.
        flops: floating-point operations of forward and backward pass.
        origin: where these numbers come from, for a reader.
    """

    n_tokens: float
    longest: float
    n_crops: float
    n_targets: float
    flops: float
    origin: str


@dataclass(frozen=True)
class DryRun:
    """What a run will take.

    Attributes:
        n_devices: devices it was reckoned for.
        max_steps: steps; None where the length of the data decides and is not known.
        batch_size: examples a step.
        rows: rows of a micro-batch on one device.
        sizes: what examples look like.
        learning: parameters that learn, by part.
        frozen: parameters that do not, by part.
        flops: floating-point operations a step, over all devices.
        memory: bytes on one device.
    """

    n_devices: int
    max_steps: int | None
    batch_size: int
    rows: int
    sizes: Sizes
    learning: Mapping[str, int]
    frozen: Mapping[str, int]
    flops: float
    memory: TrainMemory

    @property
    def tokens(self) -> float:
        """Tokens a step, over all devices."""
        return self.batch_size * self.sizes.n_tokens


def dry_run(recipe: str | Path, overrides: Sequence[str] = (), n_devices: int = 1) -> DryRun:
    """Reckon a recipe through.

    Args:
        recipe: YAML file of a `TrainConfig`.
        overrides: dotted assignments.
        n_devices: GPUs or processes that it would run on.

    Raises:
        OLMoConfigurationError: the recipe, or a recipe that does not go with so many devices.
    """
    config, base_dir = TrainConfig.load(recipe, overrides), Path(recipe).parent
    layout = plan_layout(config.parallel, n_devices, min(n_devices, DEVICES_A_MACHINE))
    with torch.device("meta"):
        first = first_config(config, base_dir)
        model = model_class(first.model_name)(first)
        if config.lora is not None:
            apply_lora(model, config.lora)
    max_steps, components = config.max_steps, model.components()
    try:
        task: TrainTask = TASKS[config.task](config, model, base_dir)
        components = {k: dict(v) for k, v in task.components().items()}
        max_steps = config.n_steps(task.stream.n_rows)
        sizes = _look(task, config)
    except OLMoError as error:
        sizes = _longest(config, model.config, error)
    freeze(components, config.optimizer)
    share = -(-config.batch_size // layout.data)
    rows = min(config.micro_batch_size or share, share)
    learning = {part: _count(named, learns=True) for part, named in components.items()}
    return DryRun(
        n_devices=n_devices,
        max_steps=max_steps,
        batch_size=config.batch_size,
        rows=rows,
        sizes=sizes,
        learning=learning,
        frozen={part: _count(named, learns=False) for part, named in components.items()},
        flops=config.batch_size * sizes.flops,
        memory=_memory(
            config,
            model,
            layout,
            sum(learning.values()),
            _micro_batch(config, model.config, sizes, rows),
            -(-share // rows),
        ),
    )


def _count(named: Mapping[str, nn.Parameter], learns: bool) -> int:
    return sum(p.numel() for p in named.values() if p.requires_grad is learns)


def _look(task: TrainTask, config: TrainConfig) -> Sizes:
    """Sizes of the first examples of the run."""
    n = min(N_LOOKED_AT, config.batch_size)
    loader = StepLoader(
        task.stream, task.prepare, task.collate, batch_size=n, micro_batch_size=1, max_steps=1,
        first_example=config.first_example, seed=config.seed, on_bad_example=config.on_bad_example,
    )  # fmt: skip
    batches = [batch for step in loader for batch in step.micro_batches]
    lengths = [task.n_tokens(batch) for batch in batches]
    crops = [_n_crops(batch) for batch in batches]
    targets = [int((b["labels"] != -100).sum()) if "labels" in b else 0 for b in batches]
    return Sizes(
        n_tokens=sum(lengths) / len(batches),
        longest=float(max(lengths)),
        n_crops=sum(crops) / len(batches),
        n_targets=sum(targets) / len(batches),
        flops=sum(task.flops(batch) for batch in batches) / len(batches),
        origin=f"measured on {len(batches)} examples",
    )


def _n_crops(batch: Batch) -> int:
    if "image_input_idx" in batch:  # [B, N, tokens]; -1 throughout for a crop that only fills up
        is_used = (batch["image_input_idx"] >= 0).any(dim=-1)
        return int((is_used & ~batch[IS_REPEAT][:, None] if IS_REPEAT in batch else is_used).sum())
    return len(batch["images"]) if "images" in batch else 0


def _longest(config: TrainConfig, model: MolmoConfig, error: OLMoError) -> Sizes:
    """Sizes where no example can be read: as long as they may be."""
    length = float(config.sequence_length or model.llm.max_sequence_length)
    n_targets = length / 4
    kinds = _most_crops(model)
    forward = forward_flops(model, n_tokens=round(length), n_pairs=round(length**2), n_logits=round(n_targets))
    if isinstance(model, VideoOlmoConfig):
        seen = crop_flops(model, kinds)
    else:
        seen = forward_flops(model, n_tokens=0, n_pairs=0, n_crops=kinds.total())
    forward = replace(forward, vit=seen.vit, connector=seen.connector)
    settings = component_configs(config.optimizer)
    parts = [part for part in PARTS if not settings[part].is_frozen]
    flops = 2.0 * forward.total if config.lora else training_flops(forward, parts).total
    why = f"the longest possible, because no data can be read: {error}"
    return Sizes(length, length, float(kinds.total()), n_targets, flops, why)


def _most_crops(model: MolmoConfig) -> Counter[CropKind]:
    """Crops of a picture or frames of a video, at most: what a VideoOlmo trains on is taken to be videos."""
    image = model.image_spec
    if image is None:
        return Counter()
    if not isinstance(model, VideoOlmoConfig):
        return Counter({(False, image.grid, image.pool_h, image.pool_w): 1 + model.mm_preprocessor.max_crops})
    spec = model.video_spec
    grid = spec.resolution // image.patch_size if isinstance(spec.resolution, int) else image.grid
    return Counter((True, grid, *spec.pool_of(frame // spec.stride)) for frame in range(spec.n_frames))


def _micro_batch(config: TrainConfig, model: MolmoConfig, sizes: Sizes, rows: int) -> MicroBatch:
    per_row = 1.0
    length = sizes.longest
    if config.pack and config.sequence_length:
        length = float(config.sequence_length)
        per_row = max(1.0, length / sizes.n_tokens)
    n_crops = rows * per_row * sizes.n_crops
    if isinstance(model, VideoOlmoConfig) and model.checkpoint_frames and model.frame_batch_size is not None:
        n_crops = min(n_crops, model.frame_batch_size)  # activations are made anew, so many crops at a time
    return MicroBatch(rows * length, n_crops, rows * per_row * sizes.n_targets)


def _memory(
    config: TrainConfig, model: ModelBase, layout: Layout, n_learning: int, batch: MicroBatch, n_micro_batches: int
) -> TrainMemory:
    n_params = sum(p.numel() for p in model.parameters())
    split = layout.tensor * (layout.shards if layout.strategy.shards else 1)
    is_half = config.precision is Precision.amp_bf16
    blocks = [sum(p.numel() for p in block.parameters()) for _, block in transformer_blocks(model)]
    mode = config.activation_checkpointing
    # Gradients are exchanged in the last micro-batch of a step, and until then every process holds whole ones.
    once = n_micro_batches == 1
    is_taught = config.selection is not None and config.selection.output_teacher is not None
    teacher = FLOAT32 * n_params if is_taught else 0.0  # whole on every device
    copies = 0.0
    if is_half:  # products keep them for the backward pass; blocks that are computed again make theirs when needed
        copies += BFLOAT16 * (n_params if mode is None else max(blocks)) / layout.tensor
    if layout.strategy.shards:  # the block at work and the next, and what lies outside blocks
        gathered = BFLOAT16 if config.parallel.param_dtype is FloatName.bfloat16 else FLOAT32
        copies += gathered * (2 * max(blocks) + n_params - sum(blocks)) / layout.tensor
    return TrainMemory(
        weights=FLOAT32 * n_params / split + teacher,
        gradients=FLOAT32
        * n_learning
        / (split if once or config.parallel.exchange_each_micro_batch else layout.tensor),
        moments=2 * FLOAT32 * n_learning / split,
        average=0.0 if config.ema_decay is None else FLOAT32 * n_learning / split,
        working_copies=copies,
        activations=activation_bytes(
            model.config, batch, is_half, mode, not config.optimizer.vit.is_frozen or config.lora is not None
        )
        / layout.tensor,
    )


def as_rows(result: DryRun) -> list[tuple[str, str]]:
    """The result as label and value, for printing."""
    memory: Any = result.memory
    rows = [
        ("devices", f"{result.n_devices}, memory is that of one"),
        ("examples a step", f"{result.batch_size:,} ({result.rows} rows at a time on each device)"),
        ("tokens a step", f"{result.tokens:,.0f} ({result.sizes.origin})"),
        ("tokens with a loss", f"{result.batch_size * result.sizes.n_targets:,.0f} a step"),
        ("crops and frames a step", f"{result.batch_size * result.sizes.n_crops:,.0f}"),
        ("steps", "as long as the data" if result.max_steps is None else f"{result.max_steps:,}"),
        *(
            (f"parameters: {part}", f"{result.learning[part]:,} learn, {result.frozen[part]:,} frozen")
            for part in result.learning
        ),
        ("arithmetic a step", f"{result.flops / 1e12:,.3g} TFLOP"),
    ]
    names = ("weights", "gradients", "moments", "average", "working_copies", "activations", "total")
    return rows + [(f"memory: {name.replace('_', ' ')}", _bytes(getattr(memory, name))) for name in names]


def _bytes(value: float) -> str:
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.1f} MiB"

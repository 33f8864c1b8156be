"""The language task: the whole model learns to write the answers of conversations about pictures and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from olmo.data.mixture import open_mixture
from olmo.data.source import Source, open_source
from olmo.eval.runner import evaluate
from olmo.eval.tasks import task_of
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.flops import PARTS, Flops, forward_flops, training_flops
from olmo.models.outputs import OLMoOutput
from olmo.models.video_olmo.budget import crop_flops, crop_kinds
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.llm_config import BlockType
from olmo.nn.loss import target_positions
from olmo.nn.moe import RoutedMlp
from olmo.preprocessing.collator import MMCollator
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.train.lora.adapters import has_lora, save_adapter
from olmo.train.optim.adamw import component_configs
from olmo.train.task import AddUp, Batch, Collate, Prepare, Tally
from olmo.train.train_config import TrainConfig

SOURCE_IDS = "source_ids"
"""Key of a micro-batch: index of the source that each token comes from, int16 `[B, L]`, -1 on padding."""

ROUTER_TALLIES = ("loss_load_balance", "loss_router_z", "router_entropy", "router_imbalance")

_LOGITS_AT_ONCE = 512  # rows of logits that the losses by source are taken of at a time; more would be held for nothing


class PrepareExample:
    """Raw examples through the preprocessor, with the index of their source."""

    def __init__(self, preprocessor: Preprocessor, source_names: Sequence[str]) -> None:
        self.preprocessor, self.indices = preprocessor, {name: i for i, name in enumerate(source_names)}

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Tensors of one example."""
        source = str((example.get("metadata") or {}).get("source"))
        tensors = {k: v for k, v in self.preprocessor(example, rng=rng).items() if isinstance(v, torch.Tensor)}
        return {**tensors, SOURCE_IDS: self.indices.get(source, -1)}


class CollateRows:
    """The model's collator, with the source of each token."""

    def __init__(self, collator: MMCollator) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> Batch:
        """A padded batch of rows; a row is an example or a list of them."""
        batch = self.collator(rows)
        sources = torch.full(batch["input_ids"].shape, -1, dtype=torch.int16)
        for i, row in enumerate(rows):
            start = 0
            for example in row if isinstance(row, list) else [row]:
                end = start + len(example["input_ids"])
                sources[i, start:end] = example[SOURCE_IDS]
                start = end
        return {**batch, SOURCE_IDS: sources}


class LanguageTask:
    """Trains a model with the next-token loss on answers.

    Args:
        config: the recipe.
        model: the model; its data formatter says how examples become text.
        base_dir: folder that relative paths of the data start from.
    """

    def __init__(self, config: TrainConfig, model: ModelBase, base_dir: str | Path | None = None) -> None:
        self.module: nn.Module = model
        self.model, self.config, self.base_dir = model, config, base_dir
        if config.optimizer.is_embedding_frozen and model.config.llm.weight_tying:
            raise OLMoConfigurationError(
                "the table is also the output head here (llm.weight_tying), which has to learn; leave it out",
                "optimizer.is_embedding_frozen",
            )
        self.stream = open_mixture(config.data, config.seed, base_dir)
        evaluated = config.evaluation.sources if config.evaluation else []
        self.evaluation_sources: list[Source] = [open_source(source, base_dir) for source in evaluated]
        for name in config.evaluation.tasks if config.evaluation else []:
            task_of(name, base_dir)  # a wrong name is found now rather than after hours
        self.source_names = tuple(dict.fromkeys(source.name for source in self.stream.sources))
        self.source_tallies = tuple(f"loss_{n}" for n in self.source_names) if len(self.source_names) > 1 else ()
        self.balanced = [m for m in model.modules() if isinstance(m, RoutedMlp) and m.selection_bias is not None]
        is_routed = model.config.llm.block_type is BlockType.olmoe
        self.tally_names = (*self.source_tallies, *(ROUTER_TALLIES if is_routed else ()))
        length = self.sequence_length
        build = model.config.build_preprocessor
        self.prepare: Prepare = PrepareExample(build(False, True, max_seq_len=length), self.source_names)
        self.evaluation_prepare: Prepare = PrepareExample(build(False, False, max_seq_len=length), ())
        self.collate: Collate = CollateRows(model.config.build_collator(length, None, include_metadata=False))

    @property
    def sequence_length(self) -> int:
        """Longest row, in tokens."""
        context = self.model.config.llm.max_sequence_length
        length = self.config.sequence_length
        if length is not None and length > context:
            raise OLMoConfigurationError(
                f"{length} is above the model's context of {context} (llm.max_sequence_length)", "sequence_length"
            )
        return length or context

    @property
    def n_vit_blocks(self) -> int:
        """Blocks of the ViT up to the deepest one that the connector reads."""
        vision = self.model.config.vision_backbone
        return 0 if vision is None else 1 + max(layer % vision.vit.spec.n_layers for layer in vision.layers)

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Connector, ViT and LLM."""
        return self.model.components()

    def begin_step(self, step: int, max_steps: int) -> None:
        """Nothing changes from step to step."""

    def end_step(self, add_up: AddUp) -> None:
        """Balance the experts whose choice has a bias, by what all processes sent to them."""
        if not self.balanced:
            return
        n = self.balanced[0].n_experts
        nothing = torch.zeros(n)  # of a step without a routed pass here
        loads = [nothing if m.load_of_step is None else m.load_of_step for m in self.balanced]
        total = add_up([float(number) for load in loads for number in load.tolist()])
        for i, routed in enumerate(self.balanced):
            routed.balance(torch.tensor(total[i * n : (i + 1) * n], device=routed.router.weight.device))

    def weight(self, batch: Batch) -> float:
        """Sum of the weights of the target tokens."""
        rows, columns, _ = target_positions(batch["labels"], batch.get("subsegment_ids"))
        return float(batch["loss_masks"][rows, columns + 1].double().clamp(min=0).sum())

    def n_tokens(self, batch: Batch) -> int:
        """Real tokens, those of pictures among them."""
        return int(batch["attention_mask"].sum())

    def flops(self, batch: Batch) -> float:
        """From the formulas of `olmo.models.flops`; attention between conversations that a mask hides is counted.

        Frames count at their own pooling and resolution. Those that the question drops count in the language model too.
        """
        return self.flops_with_backward(self.flops_of_forward(batch, batch["attention_mask"].sum(dim=1)))

    def flops_of_forward(self, batch: Batch, lengths: torch.Tensor) -> Flops:
        """Of a forward pass, with `lengths` `[B]` of the rows in the language model."""
        config = self.model.config
        lengths, n_crops, frames = lengths.double(), 0, Flops()
        if "image_input_idx" in batch:
            is_used = self.encoded_crops(batch)
            if isinstance(config, VideoOlmoConfig) and "frame_facts" in batch:
                frames = crop_flops(config, crop_kinds(batch["frame_facts"][is_used].tolist()))
            else:
                n_crops = int(is_used.sum())
        forward = forward_flops(
            config,
            n_tokens=int(lengths.sum()),
            n_pairs=int(lengths.square().sum()),
            n_crops=n_crops,
            n_logits=int((batch["labels"] != -100).sum()),
        )
        return Flops(vit=forward.vit + frames.vit, connector=forward.connector + frames.connector, llm=forward.llm)

    def encoded_crops(self, batch: Batch) -> torch.Tensor:
        """`[B, N]` bool: crops of a batch with pictures that the encoder sees."""
        return (batch["image_input_idx"] >= 0).flatten(2).any(dim=-1)

    def flops_with_backward(self, forward: Flops) -> float:
        """Of forward and backward pass, for what learns in this run."""
        if self.config.lora is not None:
            return 2.0 * forward.total  # gradients pass back through the matrices, and none is taken of them
        settings = component_configs(self.config.optimizer)
        return training_flops(forward, [part for part in PARTS if not settings[part].is_frozen]).total

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Mean cross-entropy over answer tokens, and the same for each source where there are several."""
        return self.of_answers(self.run(batch, z_loss=self.config.z_loss), batch)

    def of_answers(self, out: OLMoOutput, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Loss and numbers to log of a forward pass over a micro-batch."""
        assert out.loss is not None, "labels were given"
        return out.loss, {**self.by_source(out.logits, batch), **self.of_routers(out, batch)}

    def run(self, batch: Batch, **settings: Any) -> OLMoOutput:
        """The forward pass over a micro-batch, with logits where a loss is taken; `settings` go to the model."""
        return self.module(**{k: v for k, v in batch.items() if k != SOURCE_IDS}, logits_at="labels", **settings)

    def of_routers(self, out: OLMoOutput, batch: Batch) -> Tally:
        """What the routers add to the loss, and how they share out the tokens."""
        weight, aux = self.weight(batch), out.aux or {}
        return {
            name: (aux[name].detach().float() * weight, weight)
            for name in ROUTER_TALLIES
            if name in aux and name in self.tally_names
        }

    @torch.no_grad()
    def by_source(self, logits: torch.Tensor, batch: Batch) -> Tally:
        """Loss of each source, without the z-loss."""
        if not self.source_tallies or not self.module.training:
            return {}
        rows, columns, targets = target_positions(batch["labels"], batch.get("subsegment_ids"))
        weights = batch["loss_masks"][rows, columns + 1].float().clamp(min=0)  # [n]
        sources = batch[SOURCE_IDS][rows, columns + 1].long()  # [n]
        pieces = zip(logits.split(_LOGITS_AT_ONCE), targets.split(_LOGITS_AT_ONCE), strict=True)
        losses = [F.cross_entropy(part.float(), wanted, reduction="none") for part, wanted in pieces]
        weighted = torch.cat(losses) * weights if losses else weights
        return {
            name: (weighted[sources == i].sum(), weights[sources == i].sum())
            for i, name in enumerate(self.source_tallies)
        }

    def answer(self, name: str, limit: int) -> dict[str, float]:
        """Figures of an evaluation task, answered greedily."""
        return evaluate(self.model, name, limit, base_dir=self.base_dir)

    def write_configuration(self, folder: Path) -> None:
        """Configuration and tokenizer of the model; nothing beside adapters."""
        if not has_lora(self.model):
            self.model.config.save(folder)

    def export(self, folder: Path) -> None:
        """The whole model as a native checkpoint; with adapters these alone, for `molmo convert --merge-adapter`."""
        if has_lora(self.model):
            save_adapter(self.model, folder, self.config.init_from)
        else:
            self.model.save_checkpoint(folder, sharded=False)

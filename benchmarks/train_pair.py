"""Our model and a plain one of transformers' parts with the same random weights, ready to take training steps in turn.

The plain side is what one would write without this library: transformers' picture encoder and language model, our
connector's modules between them (transformers has none), cross-entropy over all positions, autograd, AdamW. Ours is
`run_micro_batches`, `Parallel.clip` and the optimizer of the trainer, on the same batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from olmo.models.molmo.base_llm import llm_weight_rules
from olmo.models.molmo.base_vit import vit_weight_rules
from olmo.models.molmo.molmo import Molmo
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.train.optim.adamw import build_optimizer
from olmo.train.optim.config import OptimizerConfig
from olmo.train.parallel.processes import Parallel
from olmo.train.step import StepSums, autocast, run_micro_batches
from olmo.train.tasks.language import LanguageTask
from olmo.train.train_config import Precision, TrainConfig

Batch = dict[str, Tensor]
Step = Callable[[Batch], float]
"""Takes one step on a batch and returns the loss before it."""

LEARNING_RATE = 1e-5  # small, so that both sides stay near one another


class FixedBatchTask(LanguageTask):
    """The language task on batches from elsewhere: it needs no data and no tokenizer."""

    def __init__(self, model: Molmo, config: TrainConfig) -> None:
        self.module: nn.Module = model
        self.model, self.config, self.tally_names, self.source_tallies = model, config, (), ()


class OurSide:
    """Steps as the trainer takes them.

    Args:
        model: In training mode, on its device.
        config: Recipe; only its optimizer and precision are read.
        parallel: The one process there is.
    """

    def __init__(self, model: Molmo, config: TrainConfig, parallel: Parallel) -> None:
        self.task, self.parallel, self.config = FixedBatchTask(model, config), parallel, config
        self.optimizer = build_optimizer(self.task.components(), config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE

    def step(self, batch: Batch) -> StepSums:
        """One step; what it came to."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = run_micro_batches(self.task, [batch], self.parallel, precision=self.config.precision)
        self.parallel.clip(self.task.components(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        return sums


class PlainMolmo(nn.Module):
    """Transformers' parts with our connector between them.

    Args:
        model: Gives the sizes, the connector (copied) and the table of the picture tokens.
    """

    def __init__(self, model: Molmo) -> None:
        super().__init__()
        backbone = model.vision_backbone
        assert backbone is not None, "the benchmark trains on pictures"
        self.config = model.config
        self.vit, self.layers = plain_vit(backbone.config), backbone.config.layers
        self.llm = plain_llm(model.config.llm)
        self.connector = copy.deepcopy(backbone.connector)
        self.new_embedding = copy.deepcopy(model.llm.wte.new_embedding)
        self.has_class_token = backbone.config.vit.spec.has_class_token

    def forward(self, batch: Batch) -> Tensor:
        """Loss of a batch; every example has the same number of crops."""
        ids, valid = batch["input_ids"].clamp(min=0), batch["attention_mask"] > 0
        table = torch.cat((self.llm.get_input_embeddings().weight, self.new_embedding))
        embeds = self._fuse(F.embedding(ids, table), batch)
        mask: Tensor | None = batch["attention_mask"]
        if "subsegment_ids" in batch:
            mask = tree_mask(batch["subsegment_ids"], valid, embeds.dtype)
        positions = batch["position_ids"].clamp(min=0) if "position_ids" in batch else None
        logits = self.llm(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits  # [B, L, V]
        losses = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="none"
        )
        weights = batch["loss_masks"][:, 1:].flatten().clamp(min=0)
        return (losses * weights).sum() / weights.sum()

    def _fuse(self, embeds: Tensor, batch: Batch) -> Tensor:
        images, index = batch["images"], batch["image_input_idx"]  # [B, N, 3, H, W], [B, N, T]
        states = self.vit(images.flatten(0, 1), output_hidden_states=True).hidden_states
        n_layers = self.config.vision_backbone.vit.spec.n_layers
        read = [states[layer % n_layers + 1] for layer in self.layers]
        features = torch.cat(read, -1)[:, int(self.has_class_token) :]  # [M, P, C]
        tokens = self.connector(features, batch["image_masks"].flatten(0, 1))  # [M, T, D]
        used = index >= 0
        rows = torch.arange(len(index), device=index.device)[:, None, None].expand_as(index)[used]
        return embeds.index_put((rows, index[used]), tokens.view(*index.shape, -1)[used].to(embeds.dtype), True)


class PlainSide:
    """A plain training loop around `PlainMolmo`.

    Args:
        model: On its device.
        config: Recipe; betas, epsilon, clipping norm and precision are read.
        device: Where it computes.
    """

    def __init__(self, model: PlainMolmo, config: TrainConfig, device: torch.device) -> None:
        self.model, self.config, self.device = model.train(), config, device
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=(settings.beta1, settings.beta2), eps=settings.eps,
            weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip

    def step(self, batch: Batch) -> float:
        """One step; the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.config.precision):
            loss = self.model(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        return float(loss.detach())


def tree_mask(segments: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Added to the scores `[B, 1, L, L]`: a token sees earlier ones of a segment with the same or a larger number."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = causal & (segments[:, :, None] <= segments[:, None, :]) & valid[:, None, :]
    allowed = allowed | torch.eye(length, dtype=torch.bool, device=segments.device)  # padding sees itself
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill(~allowed, float("-inf"))[:, None]


def plain_llm(config: LlmConfig) -> PreTrainedModel:
    """Transformers' model of the same shape.

    Raises:
        ValueError: transformers has no such block.
    """
    sizes: dict[str, Any] = {
        "vocab_size": config.resolved_embedding_size, "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.resolved_n_kv_heads, "intermediate_size": config.resolved_mlp_hidden_size,
        "max_position_embeddings": config.max_sequence_length, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta, "tie_word_embeddings": config.weight_tying, "attn_implementation": "sdpa",
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip
    if config.block_type is BlockType.olmoe:
        routed = {"num_experts": config.n_experts, "num_experts_per_tok": config.experts_per_token}
        return OlmoeForCausalLM(OlmoeConfig(**sizes, **routed))
    if config.qk_norm or config.norm_after:
        raise ValueError("transformers has no dense block with these norms; choose a config without qk_norm")
    return Qwen2ForCausalLM(Qwen2Config(**sizes)) if config.qkv_bias else LlamaForCausalLM(LlamaConfig(**sizes))


def plain_vit(config: MolmoVisionBackboneConfig) -> PreTrainedModel:
    """Transformers' encoder of the same shape, with no block past the deepest that is read."""
    spec = config.vit.spec
    sizes = {
        "hidden_size": spec.d_model, "intermediate_size": spec.mlp_hidden_size, "num_attention_heads": spec.n_heads,
        "num_hidden_layers": 1 + max(layer % spec.n_layers for layer in config.layers),
        "image_size": spec.image_size, "patch_size": spec.patch_size, "layer_norm_eps": spec.norm_eps,
        "attn_implementation": "sdpa",
    }  # fmt: skip
    if spec.has_class_token:
        return CLIPVisionModel(CLIPVisionConfig(**sizes))
    return SiglipVisionModel(SiglipVisionConfig(**sizes, vision_use_head=False))


def share_weights(plain: PlainMolmo, model: Molmo) -> None:
    """Give our model the plain one's weights of a dense language model and of the encoder."""
    hf = plain.llm.config.to_dict()
    theirs = plain.llm.state_dict()
    rules = llm_weight_rules(hf, model.config.llm)
    ours = {rule.target: rule.combine(*(theirs[name] for name in rule.sources)) for rule in rules}
    missing, unexpected = model.llm.load_state_dict(ours, strict=False)
    assert not unexpected and missing == ["wte.new_embedding"], f"missing {missing}, unexpected {unexpected}"
    backbone = model.vision_backbone
    assert backbone is not None, "the benchmark trains on pictures"
    theirs = plain.vit.state_dict()
    vit_rules = vit_weight_rules(plain.vit.config.to_dict(), _short_vit(backbone.config, plain), set(theirs))
    encoder = {rule.target: rule.combine(*(theirs[name] for name in rule.sources)) for rule in vit_rules}
    missing, unexpected = backbone.image_vit.load_state_dict(encoder, strict=False)
    assert not unexpected, f"unexpected {unexpected}"  # blocks past the deepest one read stay as they are


def _short_vit(config: MolmoVisionBackboneConfig, plain: PlainMolmo) -> Any:
    return config.vit.replace(n_layers=plain.vit.config.num_hidden_layers)


def recipe(precision: str = "fp32") -> TrainConfig:
    """What both sides read of a recipe."""
    return TrainConfig.new(
        model="none", run_dir="none", max_steps=1, data={"sources": [{"kind": "scenes"}]},
        precision=Precision.parse(precision), optimizer=OptimizerConfig(),
    )  # fmt: skip

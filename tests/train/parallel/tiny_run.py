"""A tiny Molmo, a batch for it, and one training step of it, on one process or as a share of several."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.train.parallel.processes import Parallel

Gradients = dict[str, torch.Tensor | None]

VALUES: dict[str, Any] = {
    "model_name": "molmo",
    "llm": {
        "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 97,
        "additional_vocab_size": 8, "max_sequence_length": 64, "init_std": 0.2, "qkv_bias": True,
        "tokenizer": {"identifier": "tokenizer.json"},
    },
    "vision_backbone": {
        "vit": {"image_model_type": "openai", "image_size": 56, "patch_size": 14, "d_model": 32, "n_heads": 2,
                "n_layers": 3, "mlp_hidden_size": 48},
        "vit_layers": [-2, -3],
    },
    "mm_preprocessor": {"max_crops": 4, "overlap_margins": [2, 0]},
}  # fmt: skip
"""The last of the three ViT blocks is read by nobody, as in the released models."""

MOE = {"block_type": "olmoe", "n_experts": 4, "experts_per_token": 2, "qk_norm": True}
ROWS, LENGTH = 4, 24


class Mute:
    """A tokenizer for ids that mean nothing."""

    eos_token_id = 96
    pad_token_id = 0

    def decode(self, ids: object, **_: object) -> str:
        """Nothing."""
        return ""


def build(**llm: Any) -> Molmo:
    """The model, with changes of its language model."""
    values = copy.deepcopy(VALUES)
    values["llm"].update(llm)
    model = Molmo(MolmoConfig.new(**values), seed=3).train()
    model._tokenizer = Mute()
    return model


def batch() -> list[dict[str, torch.Tensor]]:
    """Four rows of different weight, one by one; the last one is text alone."""
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 97, (ROWS, LENGTH), generator=g)
    weights = torch.rand(ROWS, LENGTH, generator=g) * (torch.rand(ROWS, LENGTH, generator=g) > 0.4)
    images = torch.randn(ROWS, 2, 16, 588, generator=g)
    places = torch.arange(8).view(1, 2, 4).expand(ROWS, -1, -1) + 3
    rows = []
    for i in range(ROWS):
        row = {"input_ids": ids[i : i + 1], "labels": ids[i : i + 1], "loss_masks": weights[i : i + 1]}
        if i < ROWS - 1:
            pictures = {"images": images, "image_masks": torch.ones(ROWS, 2, 16), "image_input_idx": places}
            row |= {name: tensor[i : i + 1] for name, tensor in pictures.items()}
        rows.append(row)
    return rows


def weight(row: dict[str, torch.Tensor]) -> float:
    """Sum of the loss weights of a micro-batch; the first token is never a target."""
    return float(row["loss_masks"][:, 1:].sum())


def step(model: Molmo, parallel: Parallel) -> float:
    """Gradients of this process's share of the batch; returns the loss of all of it."""
    mine = batch()[parallel.data_rank :: parallel.data_world_size]
    total = parallel.sum(sum(weight(row) for row in mine))
    loss_sum = 0.0
    for i, row in enumerate(mine):
        with parallel.micro_batch(is_last=i == len(mine) - 1):
            loss = model(**row, logits_at="labels", z_loss=1e-4).loss
            (loss * (weight(row) / total * parallel.gradient_scale)).backward()
        loss_sum += float(loss.detach()) * weight(row) / total
    return parallel.sum(loss_sum)


def reference(model: Molmo) -> tuple[float, Gradients]:
    """Loss and gradients of one process, each row on its own, without any of the machinery."""
    rows = batch()
    total = sum(weight(row) for row in rows)
    losses = [model(**row, logits_at="labels", z_loss=1e-4).loss * (weight(row) / total) for row in rows]
    loss = torch.stack(losses).sum()
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters()}


def full(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collect(module: nn.Module, take: Callable[[nn.Parameter], torch.Tensor | None]) -> Gradients:
    """Something of every parameter, whole, under published names; parts of fused layers joined."""
    found: Gradients = {}
    parts: dict[str, list[torch.Tensor]] = {}
    for name, parameter in module.named_parameters():
        value = take(parameter)
        value = None if value is None else full(value)
        key = name.split(".")[-2] if "_proj." in name else ""
        if key in ("q", "k", "v", "up", "gate"):
            assert value is not None
            parts.setdefault(name.replace(f".{key}.", "."), []).append(value)
        else:
            found[name] = value
    return found | {name: torch.cat(values) for name, values in parts.items()}


def gradients(module: nn.Module) -> Gradients:
    """Whole gradients by published name."""
    return collect(module, lambda p: p.grad)


def compare(ours: Gradients, theirs: Gradients, atol: float = 1e-5) -> float:
    """All close; returns the largest difference. A gradient that does not exist may be zero."""
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    worst = 0.0
    for name, wanted in theirs.items():
        got = ours[name]
        if got is None or wanted is None:
            assert got is None or not got.any(), f"{name} has a gradient"
            assert wanted is None or not wanted.any(), f"{name} has none"
            continue
        torch.testing.assert_close(got, wanted, atol=atol, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        worst = max(worst, float((got - wanted).abs().max()))
    return worst

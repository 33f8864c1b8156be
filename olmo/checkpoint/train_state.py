"""Exact resume of training: weights, optimizer moments and counters in safetensors and JSON, written atomically.

Nothing else is needed, because the data order and all randomness of a step are functions of (seed, step).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from olmo.exceptions import OLMoCheckpointError
from olmo.io import atomic_folder

WEIGHTS, MOMENTS, COUNTERS = "weights.safetensors", "optimizer.safetensors", "state.json"


def save_train_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a folder from which `load_train_state` continues bit-exactly; an older one there is replaced at the end."""
    moments = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                moments[f"{name}/{key}"] = torch.as_tensor(value).contiguous()
    weights = {k: v.detach().contiguous() for k, v in module.state_dict().items()}
    with atomic_folder(folder) as temporary:
        save_file(weights, temporary / WEIGHTS)
        save_file(moments, temporary / MOMENTS)
        (temporary / COUNTERS).write_text(json.dumps(state, indent=1), encoding="utf-8")


def load_train_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what `save_train_state` wrote; returns its `state`.

    Raises:
        OLMoCheckpointError: a file is missing or cut, or the weights do not fit the module.
    """
    try:
        weights, moments = load_file(folder / WEIGHTS), load_file(folder / MOMENTS)
        state = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        module.load_state_dict(weights)
    except (OSError, SafetensorError, json.JSONDecodeError, RuntimeError) as error:
        raise OLMoCheckpointError(f"cannot resume from {folder}: {error}; remove the folder to start afresh") from None
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            prefix = f"{name}/"
            found = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
            if found:
                optimizer.state[parameter] = found
    return state

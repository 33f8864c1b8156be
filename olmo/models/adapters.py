"""Low-rank adapters as files: reading a folder, and adding what it holds to the weights of a model.

The folder has the layout of the `peft` library, `adapter_config.json` and `adapter_model.safetensors`, so adapters go
both ways between the two. Using one needs no `peft`: a merged adapter is a sum of matrices. Training one is
`olmo.train.lora.adapters`.

Source: Hu et al. 2021 (LoRA), section 4.1: W + (alpha / r) B A.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from olmo.checkpoint.tensor_source import open_safetensors
from olmo.exceptions import OLMoCheckpointError
from olmo.quantization.layers import narrow_layers

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."
"""What `peft` puts before the name of every tensor."""

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_REFUSED = {
    "use_dora": "DoRA",
    "rank_pattern": "ranks by layer",
    "alpha_pattern": "strengths by layer",
    "fan_in_fan_out": "transposed matrices",
    "lora_bias": "biases in the adapter",
    "target_parameters": "adapters on bare parameters",
    "modules_to_save": "modules saved by peft",
}


@dataclass(frozen=True)
class Adapter:
    """What an adapter folder holds.

    Attributes:
        location: the folder, for error messages.
        scale: alpha / r, by which every product is multiplied.
        rank: inner width r.
        alpha: strength.
        pairs: down `[r, in]` and up `[out, r]` matrix by the name of the layer they belong to.
        whole: parameters that were learned in full, by name.
        base_model: the model that the adapter was made for, as its maker named it, or None.
    """

    location: str
    scale: float
    rank: int
    alpha: float
    pairs: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor]
    base_model: str | None


def read_adapter(folder: str | Path) -> Adapter:
    """Read a folder that `olmo.train.lora.adapters.save_adapter` or `peft` wrote.

    Raises:
        OLMoCheckpointError: a file is missing or damaged, or the adapter is of a kind that is not known here.
    """
    source = Path(folder)
    config = _read_config(source / ADAPTER_CONFIG)
    open_safetensors(source / ADAPTER_WEIGHTS)  # one clear error where it is missing or cut
    tensors = {
        name.removeprefix(KEY_PREFIX).replace(".default.weight", ".weight"): tensor
        for name, tensor in load_file(source / ADAPTER_WEIGHTS).items()
    }
    downs = {name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)}
    ups = {name.removesuffix(_UP) for name in tensors if name.endswith(_UP)}
    if downs != ups or not (downs or tensors):
        odd = sorted(downs ^ ups)[:3] or ["no tensors at all"]
        raise OLMoCheckpointError(f"{source} is not a whole adapter ({', '.join(odd)}); copy it again")
    pairs = {name: (tensors.pop(name + _DOWN), tensors.pop(name + _UP)) for name in sorted(downs)}
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    base = config.get("base_model_name_or_path")
    return Adapter(str(source), scale, rank, alpha, pairs, tensors, None if base is None else str(base))


def merge_adapter(model: nn.Module, folder: str | Path) -> None:
    """Add an adapter to the weights of a model for good.

    Names and shapes are compared before anything is changed.

    Args:
        model: the model the adapter was trained on, with plain linear layers, on any device, in any float dtype. Sums
            are float32.
        folder: adapter folder.

    Raises:
        OLMoCheckpointError: not an adapter, or one of another model, or the model is quantised.
    """
    adapter = read_adapter(folder)
    if narrow_layers(model):
        raise OLMoCheckpointError(
            f"the adapter in {adapter.location} cannot be added to a quantised model; add it to the full-precision one "
            "(molmo convert --merge-adapter) and quantise that"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _require_fit(adapter, parameters)
    with torch.no_grad():
        for name, (down, up) in adapter.pairs.items():
            weight = parameters[f"{name}.weight"]
            change = adapter.scale * (up.float() @ down.float())  # [out, in]
            weight.copy_(weight.float() + change.to(weight.device))
        for name, tensor in adapter.whole.items():
            parameters[name].copy_(tensor)


def _require_fit(adapter: Adapter, parameters: dict[str, nn.Parameter]) -> None:
    problems = []
    wanted: dict[str, tuple[int, ...]]
    wanted = {f"{name}.weight": (up.shape[0], down.shape[1]) for name, (down, up) in adapter.pairs.items()}
    wanted |= {name: tuple(tensor.shape) for name, tensor in adapter.whole.items()}
    for name, shape in wanted.items():
        if name not in parameters:
            problems.append(f"the model has no {name}")
        elif tuple(parameters[name].shape) != shape:
            problems.append(f"{name} is {list(parameters[name].shape)} in the model, {list(shape)} in the adapter")
    if problems:
        made_for = f" (it was made for {adapter.base_model})" if adapter.base_model else ""
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise OLMoCheckpointError(
            f"the adapter in {adapter.location} belongs to another model{made_for}; nothing was changed: {listed}"
        )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise OLMoCheckpointError(f"{file} is missing; give the folder of an adapter") from None
    except (OSError, ValueError) as error:
        raise OLMoCheckpointError(f"{file} cannot be read ({error}); copy the adapter again") from None
    if config.get("peft_type") != "LORA" or not config.get("r") or "lora_alpha" not in config:
        raise OLMoCheckpointError(
            f"{file} describes no LoRA adapter (peft_type {config.get('peft_type')!r}); other kinds are not known here"
        )
    refused = [what for key, what in _REFUSED.items() if config.get(key)]
    if refused or config.get("bias", "none") != "none":
        what = ", ".join(refused) or "trained biases"
        raise OLMoCheckpointError(f"{file} asks for {what}, which is not known here; merge it with peft")
    return config

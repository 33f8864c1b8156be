"""Low-rank adapters on a model in training: put on, saved alone, loaded, merged. By the `peft` library (extra `lora`).

A model with adapters is still the same `Molmo`: chosen linear layers are wrapped in place, everything else is frozen.
Reading and merging saved adapters without `peft` is `olmo.models.adapters`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.io import atomic_folder
from olmo.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, KEY_PREFIX, read_adapter
from olmo.models.base import ModelBase
from olmo.nn.int8_linear import Int8Linear
from olmo.nn.linear import linear
from olmo.nn.nf4_linear import Nf4Linear
from olmo.train.lora.config import LoraBase, LoraConfig

_ADAPTER = "default"  # peft's name for the only adapter
_NEVER = ("router", "lm_head", "patch_embedding")
"""The router's matrix is read without its layer, the head may be tied, patches are the input."""


def apply_lora(model: ModelBase, config: LoraConfig, *, seed: int = 0) -> None:
    """Put fresh adapters onto a model, in place. The model computes what it did before, until they learn.

    Args:
        model: a model whose weights are loaded. All of it is frozen but adapters and `config.whole_parts`.
        config: parts, rank, base.
        seed: seed of the adapters' random half.

    Raises:
        OLMoConfigurationError: nothing matches, adapters are there already, or a library is missing.
        OLMoCheckpointError: `config.init_from` does not fit.
    """
    peft = _peft()
    if has_lora(model):
        raise OLMoConfigurationError("the model has adapters already; merge them with merge_lora first", "lora")
    targets = _targets(model, config)
    _quantise_base(model, targets, config.base)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    whole = {name for part in config.whole_parts for name in model.components()[part.value]}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name) or name in whole)
    if config.init_from is not None:
        load_adapter(model, config.init_from)


def has_lora(model: nn.Module) -> bool:
    """Whether adapters are on the model."""
    return any(_is_adapter(name) for name, _ in model.named_parameters())


def trainable_components(model: ModelBase) -> dict[str, dict[str, nn.Parameter]]:
    """`model.components()` with the parameters that learn alone; a part where none does is left out."""
    learning = {
        part: {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        for part, parameters in model.components().items()
    }
    return {part: parameters for part, parameters in learning.items() if parameters}


def save_adapter(model: ModelBase, folder: str | Path, base_model: str | None = None) -> None:
    """Write the adapters, and what learned in full, without the base: safetensors and JSON as `peft` reads them.

    Args:
        model: model with adapters.
        folder: folder to write; an adapter that was there stays until the new one is complete.
        base_model: folder or hub id of the model the adapters belong to, for the record.

    Raises:
        OLMoConfigurationError: there are no adapters on the model.
        OLMoCheckpointError: `folder` holds something else.
    """
    layers = lora_layers(model)
    if not layers:
        raise OLMoConfigurationError("there are no adapters on the model to save; put them on with apply_lora")
    _refuse_foreign(Path(folder))
    tensors = {
        KEY_PREFIX + name.replace(f".{_ADAPTER}.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or _is_adapter(name)
    }
    first = next(iter(layers.values()))
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": first.r[_ADAPTER],
        "lora_alpha": first.lora_alpha[_ADAPTER],
        "lora_dropout": getattr(first.lora_dropout[_ADAPTER], "p", 0.0),
        "bias": "none",
        "target_modules": sorted(layers),
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_adapter(model: ModelBase, folder: str | Path) -> None:
    """Fill the adapters that are on a model from a folder; all of them, or none where something does not fit.

    Raises:
        OLMoCheckpointError: not an adapter, or other layers or another rank than those on the model.
    """
    adapter = read_adapter(folder)
    tensors: dict[str, Tensor] = dict(adapter.whole)
    for name, (down, up) in adapter.pairs.items():
        tensors[f"{name}.lora_A.{_ADAPTER}.weight"], tensors[f"{name}.lora_B.{_ADAPTER}.weight"] = down, up
    parameters = dict(model.named_parameters())
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad or _is_adapter(name)}
    wrong = sorted(expected ^ set(tensors))
    wrong += [n for n, t in tensors.items() if n in expected and t.shape != parameters[n].shape]
    scales = {float(layer.scaling[_ADAPTER]) for layer in lora_layers(model).values()}
    if wrong or scales != {adapter.scale}:
        what = ", ".join(wrong[:5]) or f"alpha / rank is {adapter.scale}, on the model {sorted(scales)}"
        raise OLMoCheckpointError(
            f"the adapter in {folder} (rank {adapter.rank}, alpha {adapter.alpha}) is not of the shape that the lora "
            f"section asks for; nothing was loaded: {what}"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def merge_lora(model: ModelBase) -> None:
    """Add the adapters to the weights and take them off: a plain model again, that can be exported in any layout.

    An 8-bit or 4-bit base becomes float32 by this; its rounding stays in it.

    Raises:
        OLMoConfigurationError: there are no adapters on the model.
    """
    layers = lora_layers(model)
    if not layers:
        raise OLMoConfigurationError("there are no adapters on the model to merge")
    with torch.no_grad():
        for name, layer in layers.items():
            model.set_submodule(name, _merged(layer))
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.requires_grad_(True)


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """The wrapped layers, `peft.tuners.lora.Linear`, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def _merged(layer: Any) -> nn.Linear:
    """A plain layer that gives what base and adapter gave together."""
    base = layer.get_base_layer()
    assert isinstance(base, nn.Linear), "adapters are put on linear layers alone"
    weight = base.widened() if isinstance(base, Int8Linear | Nf4Linear) else base.weight
    down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    change = layer.scaling[_ADAPTER] * (up.float() @ down.float())  # [out, in]
    with torch.device(weight.device):
        merged = linear(base.in_features, base.out_features, bias=base.bias is not None)
    merged.weight = nn.Parameter((weight.float() + change).to(weight.dtype))
    if base.bias is not None:
        merged.bias = nn.Parameter(base.bias.detach().clone())
    return merged.train(layer.training)


def _targets(model: ModelBase, config: LoraConfig) -> list[str]:
    """Full names of the layers that get adapters."""
    parts = {part.value for part in config.parts}
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _part_of(name) in parts and name.rsplit(".", 1)[-1] not in _NEVER
    }
    last_names = sorted({name.rsplit(".", 1)[-1] for name in linears})
    unknown = sorted(set(config.target_modules) - set(last_names))
    if unknown:
        raise OLMoConfigurationError(
            f"{', '.join(unknown)}: no such linear layer in {', '.join(sorted(parts))}; there are "
            f"{', '.join(last_names) or 'none'}",
            "lora.target_modules",
        )
    wanted = set(config.target_modules or last_names)
    targets = [name for name in linears if name.rsplit(".", 1)[-1] in wanted]
    if not targets:
        raise OLMoConfigurationError(
            f"the model has no linear layer in {', '.join(sorted(parts))} to adapt; choose other parts", "lora.parts"
        )
    return targets


def _part_of(name: str) -> str:
    """The part a layer belongs to, as `ModelBase.components` divides the model."""
    if name.startswith("vision_backbone.image_vit."):
        return "vit"
    if name.startswith("token_selector."):
        return "selector"
    return "connector" if name.startswith("vision_backbone.") else "llm"


def _quantise_base(model: ModelBase, targets: list[str], base: LoraBase) -> None:
    """Replace the matrices below the adapters by narrower ones."""
    narrow: dict[LoraBase, type[Int8Linear] | type[Nf4Linear]] = {LoraBase.int8: Int8Linear, LoraBase.int4: Nf4Linear}
    if base in narrow:
        for name in targets:
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear), "targets are linear layers"
            model.set_submodule(name, narrow[base](layer))


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise OLMoConfigurationError(f"LoRA needs peft ({error}); pip install 'molmo[lora]'", "lora") from None
    return peft


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _refuse_foreign(folder: Path) -> None:
    known = {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in known) if folder.is_dir() else []
    if foreign:
        raise OLMoCheckpointError(
            f"{folder} holds {', '.join(foreign[:5])}, which is not part of an adapter and would be lost; choose "
            "another folder"
        )

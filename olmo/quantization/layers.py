"""Which linear layers of a module are quantised, and putting narrow ones in their place. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.config import Kernels, QuantizationConfig, Scheme
from olmo.quantization.int4 import Int4Linear
from olmo.quantization.int8 import Int8DynamicLinear, Int8Linear
from olmo.quantization.narrow_linear import NarrowLinear
from olmo.quantization.torchao_weights import require_torchao, stored_bytes, take_by_torchao

LAYERS: Mapping[Scheme, type[NarrowLinear]] = {
    Scheme.int8: Int8Linear,
    Scheme.int8_dynamic: Int8DynamicLinear,
    Scheme.int4: Int4Linear,
}
"""The layer of each scheme, with the kernels of torch."""


def chosen_layers(
    module: nn.Module, config: QuantizationConfig, usual: Sequence[str], never: Sequence[str] = ()
) -> dict[str, nn.Linear]:
    """The linear layers of `module` that `config` means, by name.

    Args:
        module: the module, not quantised yet.
        config: what to keep and what to include.
        usual: patterns of what is quantised without being asked for.
        never: patterns of what cannot be, because whoever owns the layer reads its matrix itself.

    Raises:
        OLMoConfigurationError: a pattern of `config` means no layer, or none is left.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not _is_among(name, never)
    }
    for field in ("keep", "include"):
        for pattern in getattr(config, field):
            if not any(_is_among(name, [pattern]) for name in layers):
                raise OLMoConfigurationError(
                    f"{pattern!r} is the name of no linear layer that can be quantised; there are, for example, "
                    f"{', '.join(list(layers)[:3]) or 'none'}",
                    field,
                )
    taken = [*usual, *config.include]
    chosen = {n: layer for n, layer in layers.items() if _is_among(n, taken) and not _is_among(n, config.keep)}
    if not chosen:
        raise OLMoConfigurationError("every linear layer is kept, so there is nothing to quantise", "keep")
    return chosen


def narrow(module: nn.Module, layers: Mapping[str, nn.Linear], config: QuantizationConfig) -> None:
    """Quantise `layers` of `module`, one after another; those on the meta device get narrow ones without values.

    Raises:
        OLMoConfigurationError: a layer cannot be kept so; its name is in the message.
    """
    if config.kernels is Kernels.torchao:
        require_torchao(config.scheme)
    for name, layer in layers.items():
        try:
            _narrow_one(module, name, layer, config)
        except OLMoConfigurationError as error:
            raise OLMoConfigurationError(f"{name}: {error.reason}") from error


def narrow_layers(module: nn.Module) -> dict[str, NarrowLinear]:
    """The narrow layers of a module by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, NarrowLinear)}


def pack_layers(module: nn.Module) -> None:
    """Get all narrow layers ready for the kernels of this CPU, which they else do when they are first used."""
    for layer in narrow_layers(module).values():
        layer.pack()


def module_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and saved buffers of a module, a tensor under several names once."""
    tensors: dict[int, Tensor] = {id(t): t for t in module.state_dict(keep_vars=True).values()}
    return sum(stored_bytes(tensor) for tensor in tensors.values())


def _narrow_one(module: nn.Module, name: str, layer: nn.Linear, config: QuantizationConfig) -> None:
    if config.kernels is Kernels.torchao:
        if not layer.weight.is_meta:
            take_by_torchao(layer, layer.weight.detach(), config.scheme)
        return
    kind = LAYERS[config.scheme]
    if layer.weight.is_meta:
        with torch.device("meta"):
            narrowed = kind(layer.in_features, layer.out_features, layer.bias is not None)
    else:
        narrowed = kind.of(layer)
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, narrowed.train(layer.training))


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)

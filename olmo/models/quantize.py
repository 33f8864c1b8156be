"""Quantising a model: which of its layers, in memory or as its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from olmo.checkpoint.module_tensors import Device, WideTensor, device_for
from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.config import Kernels, QuantizationConfig, Scheme
from olmo.quantization.layers import chosen_layers, narrow, narrow_layers
from olmo.quantization.narrow_linear import NarrowLinear
from olmo.quantization.torchao_weights import take_by_torchao

USUAL_LAYERS = ("llm.blocks",)
"""What is quantised without being asked for; picture encoder, connector, embeddings and head are not."""

_PARTS = ("llm", "vision_backbone")  # what a variant has besides is small, and decides what its model sees
_READ_BY_THEIR_OWNER = ("*.router", "*.patch_embedding")  # which wants a plain matrix


def quantization_config(
    scheme: str | QuantizationConfig,
    device: str | torch.device = "cpu",
    keep: Sequence[str] = (),
    include: Sequence[str] = (),
) -> QuantizationConfig:
    """What a person means by a scheme: our layers on a CPU, torchao's tensors elsewhere.

    Raises:
        OLMoConfigurationError: an unknown scheme, or one that the device has not.
    """
    if isinstance(scheme, QuantizationConfig):
        return scheme
    kernels = Kernels.torch if torch.device(device).type == "cpu" else Kernels.torchao
    return QuantizationConfig(scheme=Scheme.parse(scheme), kernels=kernels, keep=list(keep), include=list(include))


def narrow_model(model: nn.Module, config: QuantizationConfig) -> None:
    """Quantise the layers that `config` means, without values on the meta device, and put the model in eval mode."""
    narrow(model, _chosen(model, config), config)
    model.eval()


def wide_tensors(
    model: nn.Module, config: QuantizationConfig, dtype: torch.dtype | None, device: Device
) -> dict[str, WideTensor]:
    """For loading full-precision weights into a quantised model: the matrices that are rounded as they are read.

    Args:
        model: a quantised model on the meta device.
        config: how it is quantised.
        dtype: type of what stays floating point; None keeps the stored one.
        device: where the weights go, or where each goes by its name.
    """
    if config.kernels is Kernels.torchao:
        layers = _chosen(model, config)

        def by_torchao(name: str, layer: nn.Linear) -> Callable[[Tensor], None]:
            place = device_for(f"{name}.weight", device)
            return lambda weight: take_by_torchao(layer, weight.to(place, dtype), config.scheme)

        return {
            f"{name}.weight": WideTensor(tuple(layer.weight.shape), (f"{name}.weight",), by_torchao(name, layer))
            for name, layer in layers.items()
        }
    return {
        f"{name}.weight": WideTensor(
            (layer.out_features, layer.in_features),
            (f"{name}.weight", f"{name}.scale"),
            _taking(layer, device_for(f"{name}.weight", device), dtype),
        )
        for name, layer in narrow_layers(model).items()
    }


def refuse_torchao(config: QuantizationConfig | None) -> None:
    """Refuse to save what only torchao can read.

    Raises:
        OLMoConfigurationError: the matrices are tensors of torchao.
    """
    if config is not None and config.kernels is Kernels.torchao:
        raise OLMoConfigurationError(
            "matrices quantised by torchao are not saved: keep the full-precision checkpoint and pass quantize= when "
            "you load it, which reads it part by part; or quantise for the CPU, with `molmo quantize`"
        )


def n_narrow_numbers(model: nn.Module) -> int:
    """Numbers in the narrow matrices of a model, which are no parameters."""
    return sum(layer.in_features * layer.out_features for layer in narrow_layers(model).values())


def _chosen(model: nn.Module, config: QuantizationConfig) -> dict[str, nn.Linear]:
    further = [name for name, _ in model.named_children() if name not in _PARTS]
    return chosen_layers(model, config, USUAL_LAYERS, never=(*_READ_BY_THEIR_OWNER, *further))


def _taking(layer: NarrowLinear, device: str | torch.device, dtype: torch.dtype | None) -> Callable[[Tensor], None]:
    def take(weight: Tensor) -> None:
        layer.take(weight.to(device), dtype)

    return take

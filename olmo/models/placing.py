"""Where the weights of a model go as they are read: one device, several, or one process's share of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from olmo.checkpoint.module_tensors import Device, WideTensor
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.device_map import Places, Room
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.quantize import narrow_model, wide_tensors
from olmo.models.tensor_parallel import join_processes, shares_to_read
from olmo.nn.head_shares import ShareOfTensor, add_up, take_share
from olmo.quantization.layers import pack_layers

M = TypeVar("M", bound=ModelBase)


@dataclass(frozen=True)
class Wanted:
    """What a person says about where a model goes.

    Attributes:
        dtype: type of floating point weights; None keeps the stored one.
        device: one for all of it.
        room: several devices.
        tensor_parallel: a share for each process.
        is_stored_narrow: the weights are quantised where they lie.
    """

    dtype: torch.dtype | None
    device: str | torch.device = "cpu"
    room: Room | None = None
    tensor_parallel: bool = False
    is_stored_narrow: bool = False


class Placing(Generic[M]):
    """A model without memory and, step by step, its weights in their places.

    Args:
        cls: its class.
        config: what to build.
        wanted: where it goes.

    Attributes:
        model: the model.

    Raises:
        OLMoConfigurationError: wishes that do not go together, or that cannot be met here.
    """

    def __init__(self, cls: type[M], config: MolmoConfig, wanted: Wanted) -> None:
        _check(config, wanted)
        self._wanted, self._config = wanted, config
        self._together = join_processes(wanted.device) if wanted.tensor_parallel else None
        self._places: Places | None = None
        self._shares: dict[str, ShareOfTensor] = {}
        with torch.device("meta"):
            self.model = cls(config if self._together is None else config.replace(quantization=None))
        if self._together is not None:
            self._shares = take_share(self.model.llm, self._together.rank, self._together.size)
            self.model.spread = f"is spread over {self._together.size} processes"
            if config.quantization is not None:
                narrow_model(self.model, config.quantization)
                self.model.config = config
        elif wanted.room is not None:
            self._places = Places(self.model, wanted.room, wanted.dtype)
            if self._places.is_offloaded and config.quantization is not None:
                raise OLMoConfigurationError(
                    "a quantised model is not offloaded; give more room, or leave quantize out", "device_map"
                )

    @property
    def device(self) -> torch.device:
        """Where what belongs to no layer goes."""
        if self._together is not None:
            return self._together.device
        return torch.device(self._wanted.device) if self._places is None else self._places.main

    @property
    def place(self) -> Device:
        """Where each tensor goes."""
        return self.device if self._places is None else self._places.device_of

    def wide(self) -> dict[str, WideTensor]:
        """Tensors that are changed as they are read; ask just before reading."""
        quantization, dtype = self._config.quantization, self._wanted.dtype
        found: dict[str, WideTensor] = {}
        if quantization is not None and not self._wanted.is_stored_narrow:
            found = wide_tensors(self.model, quantization, dtype, self.place)
        if self._together is not None:
            return shares_to_read(self.model, self._shares, found, dtype, self.device)
        return found if self._places is None else found | self._places.to_disk(self.model, dtype)

    def finish(self) -> M:
        """The model, ready to answer, once all weights are read."""
        model = self.model.eval()
        if self._places is None:
            model = model.to(self.device)
        else:
            model.places = self._places
            if self._places.is_offloaded:
                model.spread = "has weights that are not in its own memory"
            self._places.connect(model)
        if self._together is not None:
            add_up(model.llm, self._together.size)
        pack_layers(model)
        return model


def _check(config: MolmoConfig, wanted: Wanted) -> None:
    if wanted.tensor_parallel and wanted.room is not None:
        raise OLMoConfigurationError("does not go with device_map; give one of them", "tensor_parallel")
    if wanted.room is not None and str(wanted.device) != "cpu":
        raise OLMoConfigurationError(f"says where the model goes, so leave out device={wanted.device}", "device_map")
    if wanted.tensor_parallel and wanted.is_stored_narrow:
        assert config.quantization is not None, "that is what is stored"
        raise OLMoConfigurationError(
            f"cannot share out matrices that are stored as {config.quantization.scheme}; take the model in full "
            "precision, with quantize= if need be",
            "tensor_parallel",
        )

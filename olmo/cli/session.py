"""A loaded model that answers questions; shared by the commands that talk to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from olmo.cli.options import Choices
from olmo.exceptions import OLMoInputError
from olmo.models.adapters import merge_adapter, read_adapter
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder
from olmo.models.molmo.molmo import Molmo

Messages = Sequence[dict[str, str]]


class Session:
    """Loads the chosen model once and streams answers.

    Args:
        choices: model, device, number format, generation settings.

    Attributes:
        name: the model as the user named it.
    """

    def __init__(self, choices: Choices) -> None:
        self.name = chosen_model(choices)
        self._generating = choices.generating()
        self.model = load_model(choices)
        self._preprocess = self.model.config.build_preprocessor(for_inference=True)

    def stream(self, messages: Messages, pictures: Sequence[np.ndarray] = ()) -> Iterator[str]:
        """The answer to the last message, piece by piece.

        Args:
            messages: turns of user and assistant; the last is the user's.
            pictures: uint8 `[H, W, 3]`, in order.
        """
        example: dict[str, Any] = {"messages": list(messages)}
        if pictures:
            example["images"] = list(pictures)
        inputs = self._preprocess(example)
        tensors = {k: v.to(self.model.device) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        yield from self.model.stream(**tensors, **self._generating)

    def ask(self, question: str, pictures: Sequence[np.ndarray] = ()) -> Iterator[str]:
        """The answer to one question, piece by piece."""
        return self.stream([{"role": "user", "content": question}], pictures)


def load_model(choices: Choices) -> Molmo:
    """The chosen model, on the chosen device.

    Raises:
        OLMoInputError: the device cannot be used.
        OLMoCheckpointError: there is no such model or adapter, files are damaged, or the two do not belong together.
    """
    if choices.device is not None:
        _check_device(choices.device)
    console = Console(stderr=True)
    name = chosen_model(choices)
    with console.status(f"Loading {name}") if console.is_terminal else nullcontext():
        model = Molmo.from_pretrained(model_folder(name), **choices.loading())
        if choices.adapter is not None:
            merge_adapter(model, choices.adapter)
    return model


def chosen_model(choices: Choices) -> str:
    """The model as the user named it; without a name that of the adapter, or the bundled one."""
    made_for = None
    if choices.model is None and choices.adapter is not None:
        made_for = read_adapter(choices.adapter).base_model
    return choices.model or made_for or BUNDLED_MODEL


def model_folder(model: str | None) -> str | Path:
    """What to load for a model named on the command line; the bundled one has a name and is the default."""
    if model is None or (model == BUNDLED_MODEL and not Path(model).exists()):
        return bundled_model_folder()
    return model


def _check_device(name: str) -> None:
    """Raise OLMoInputError where tensors cannot be put on a device of this name."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OLMoInputError(f"{name!r} is no device; use cpu, cuda, cuda:0, ... or mps") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        reason = str(error).splitlines()[0]
        raise OLMoInputError(f"device {name!r} cannot be used here ({reason}); without --device the CPU is") from None

"""A loaded model that answers questions; shared by the commands that talk to one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from olmo.cli.options import Choices
from olmo.cli.selection import Selection
from olmo.cli.subject import NOTHING, Subject
from olmo.cli.video_answer import SeenClip
from olmo.cli.video_options import VideoChoices
from olmo.exceptions import OLMoInputError
from olmo.io import resolve_model_folder
from olmo.models.adapters import merge_adapter, read_adapter
from olmo.models.auto import from_pretrained, model_class, saved_model_name
from olmo.models.base import ModelBase
from olmo.models.bundled import BUNDLED_MODEL, BUNDLED_VIDEO_MODEL, bundled_model_folder, is_bundled
from olmo.models.feature_cache import FeatureCache
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.molmo.molmo import Molmo
from olmo.models.prefix_cache import PrefixCache

Messages = Sequence[dict[str, str]]

NEVER_SAW_VIDEO = (
    "{name} is a model of pictures, so its answers about a video mean little; "
    f"--model {BUNDLED_VIDEO_MODEL} is one of videos"
)


@dataclass(frozen=True)
class Prepared:
    """A question with what it is about, as the model takes it."""

    inputs: dict[str, Any]
    """Tensors for `stream`, and metadata."""

    clips: tuple[SeenClip, ...] = ()
    """Frames of the videos that the model is shown."""


class Session:
    """Loads the chosen model once and streams answers.

    Args:
        choices: model, device, number format, generation settings.
        for_video: get ready for videos; None where there will be none. Its choices hold for every video.
        tensor_parallel: see `load_model`.

    Attributes:
        name: the model as the user named it.
        model: the model.
    """

    def __init__(self, choices: Choices, for_video: VideoChoices | None = None, tensor_parallel: bool = False) -> None:
        self.name = chosen_model(choices)
        self._generating = choices.generating()
        self.model = load_model(choices, for_video, tensor_parallel)
        # A chat asks about one picture again and again, and each of its prompts begins with the last.
        self.model.feature_cache, self.model.prefix_cache = FeatureCache(), PrefixCache()
        self._preprocess = self.model.config.build_preprocessor(for_inference=True, include_image=True)
        source = self.model.config.source_dir
        self._is_to_warn = source is not None and saved_model_name(source) == Molmo.config_class.model_name

    def prepare(self, asked: str | Messages, subject: Subject = NOTHING) -> Prepared:
        """Turn a question into what the model takes.

        Args:
            asked: the question, or turns of user and assistant of which the last is the user's.
            subject: what it is about.

        Raises:
            OLMoInputError: it cannot be asked, or does not fit the context.
        """
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
        inputs = self._preprocess({"messages": messages, **subject.example()})
        if not subject.videos:
            return Prepared(inputs)
        if self._is_to_warn:
            self._is_to_warn = False  # said once is enough
            warnings.warn(NEVER_SAW_VIDEO.format(name=self.name), stacklevel=2)
        frames = iter(inputs["metadata"]["images"])
        times = inputs["metadata"]["frame_seconds"]
        clips = (SeenClip(tuple(islice(frames, len(seconds))), tuple(seconds)) for seconds in times)
        return Prepared(inputs, tuple(clips))

    def stream(self, prepared: Prepared) -> Iterator[str]:
        """The answer, piece by piece."""
        yield from self.model.stream(**self._arguments(prepared))

    def answer(self, prepared: Prepared, show: Callable[[str], None] | None = None) -> tuple[str, Selection | None]:
        """The whole answer, and what was kept of the pictures where the model is a HeMolmo.

        Args:
            prepared: the question.
            show: is handed each piece of the text as it comes.
        """
        pieces: list[str] = []

        def take(piece: str) -> None:
            pieces.append(piece)
            if show is not None:
                show(piece)

        if isinstance(self.model, HeMolmo):  # a plain stream tells nothing but text
            out = self.model.generate(**self._arguments(prepared), stream=take)
            return "".join(pieces), Selection(out.aux, prepared.inputs, self.model.config)
        for piece in self.stream(prepared):
            take(piece)
        return "".join(pieces), None

    def _arguments(self, prepared: Prepared) -> dict[str, Any]:
        tensors = {k: v.to(self.model.device) for k, v in prepared.inputs.items() if isinstance(v, torch.Tensor)}
        return {**tensors, **self._generating}


def load_model(choices: Choices, for_video: VideoChoices | None = None, tensor_parallel: bool = False) -> ModelBase:
    """The chosen model, of whatever variant it is, on the chosen device.

    Args:
        choices: model, adapter, device, number format.
        for_video: a Molmo is to take videos too, with these choices.
        tensor_parallel: this process takes its share of each layer; `torchrun` started the others.

    Raises:
        OLMoInputError: the device cannot be used, or a choice means nothing to this model.
        OLMoCheckpointError: there is no such model or adapter, files are damaged, or the two do not belong together.
    """
    if choices.device is not None:
        _check_device(choices.device)
    if choices.selection_ratio is not None:
        require_he_molmo(choices, "--selection-ratio")
    if choices.adapter is not None and (tensor_parallel or choices.device_map is not None):
        raise OLMoInputError(
            "an adapter is merged on one device; leave out --tensor-parallel and --device-map, or write the merged "
            "model first (olmo.models.adapters.merge_adapter, then save_checkpoint)"
        )
    console = Console(stderr=True)
    name = chosen_model(choices)
    with console.status(f"Loading {name}") if console.is_terminal else nullcontext():
        model = from_pretrained(
            model_folder(name),
            for_video=for_video is not None,
            overrides=[*choices.overrides(), *([] if for_video is None else for_video.overrides())],
            **choices.loading(),
            tensor_parallel=tensor_parallel,
        )
        if choices.adapter is not None:
            merge_adapter(model, choices.adapter)
    return model


def require_he_molmo(choices: Choices, option: str) -> None:
    """Refuse an option that means nothing to the chosen model, before its weights are loaded.

    Raises:
        OLMoInputError: it is no HeMolmo.
        OLMoCheckpointError: there is no such model.
    """
    name = chosen_model(choices)
    found = saved_model_name(resolve_model_folder(model_folder(name)))
    if not issubclass(model_class(found), HeMolmo):
        raise OLMoInputError(
            f"{option} is for a HeMolmo, which chooses among picture tokens, and {name} is a {found}; name a HeMolmo "
            "with --model (HeMolmo.from_pretrained makes one of any Molmo, and its save_checkpoint writes it)"
        )


def chosen_model(choices: Choices) -> str:
    """The model as the user named it; without a name that of the adapter, or the bundled one."""
    made_for = None
    if choices.model is None and choices.adapter is not None:
        made_for = read_adapter(choices.adapter).base_model
    return choices.model or made_for or BUNDLED_MODEL


def about(subject: Subject, choices: Choices) -> Choices:
    """The choices, with the bundled model of videos where no model was chosen and the subject is a video."""
    is_open = choices.model is None and choices.adapter is None
    return replace(choices, model=BUNDLED_VIDEO_MODEL) if is_open and subject.videos else choices


def model_folder(model: str | None) -> str | Path:
    """What to load for a model named on the command line; the bundled ones have names, and one is the default."""
    if model is None:
        return bundled_model_folder()
    return bundled_model_folder(model) if is_bundled(model) and not Path(model).exists() else model


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

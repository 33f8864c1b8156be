"""The door of generation: the arguments of a call, sorted into prompts, settings, hooks and randomness, and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from olmo.exceptions import OLMoInputError
from olmo.generation.params import GenerationParams, as_token_ids
from olmo.generation.sampling import Generators
from olmo.generation.step import LogitsProcessor
from olmo.models.compiled_decoding import CompiledDecoding
from olmo.models.llm_inputs import LlmInputs
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.prefix_cache import PrefixCache
from olmo.models.text_inputs import TextInputs, check_context, refuse_unknown_arguments, text_inputs
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import Llm
from olmo.tokenizer import Tokenizer

_PICTURE_ARGUMENTS = ("images", "image_masks", "image_input_idx")
_TEXT_ARGUMENTS = ("attention_mask", "position_ids", "subsegment_ids")
_PASSED_OVER = ("labels", "loss_masks", "metadata")
"""Taken so that what a preprocessor or a collator returns can be handed in whole."""


class GeneratingModel(Protocol):
    """What generation asks of a model; `ModelBase` has it."""

    config: MolmoConfig
    llm: Llm
    crop_arguments: ClassVar[tuple[str, ...]]
    choice_arguments: ClassVar[tuple[str, ...]]

    prefix_cache: PrefixCache | None
    compiled_decoding: CompiledDecoding | None

    def reuses_prefixes(self) -> bool:
        """Whether what is computed of a prompt's beginning depends on that alone."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    def modules(self) -> Iterator[nn.Module]:
        """The model and all of its parts."""

    def llm_inputs(
        self,
        text: TextInputs,
        images: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | None = None,
        **further: Any,
    ) -> LlmInputs:
        """Embed, fuse the pictures in, apply the transforms."""

    def lengths_after_choice(self, text: TextInputs, pictures: Mapping[str, Any]) -> torch.Tensor:
        """`[B]` int64: at most so many positions of each row reach the language model."""

    def read_prompt(self, inputs: LlmInputs, cache: KVCache) -> torch.Tensor:
        """Hidden states `[B, L, D]` of whole prompts; `cache` is filled."""

    def build_cache(self, inputs: LlmInputs, *, extra_length: int = 0) -> KVCache:
        """A cache with room for `inputs` and `extra_length` tokens more."""


@dataclass(frozen=True)
class Request:
    """A checked call of `generate`."""

    text: TextInputs
    """The prompts."""

    pictures: dict[str, Any]
    """The pictures and what goes with them, as given."""

    params: GenerationParams
    """Settings; `max_new_tokens` is no more than the row with most room can take."""

    room: list[int]
    """New tokens that each row's context has left."""

    logits_processors: tuple[LogitsProcessor, ...]
    """The user's hooks."""

    generator: Generators
    """Source of randomness."""


def read_request(model: GeneratingModel, input_ids: torch.Tensor, options: dict[str, Any]) -> Request:
    """Sort the arguments into inputs, settings, hooks and randomness, and check them.

    Raises:
        OLMoInputError: an unknown argument, one out of range, a prompt that is empty or fills the context.
    """
    settings = {name for name in GenerationParams.__dataclass_fields__ if name != "eos_token_ids"} | {"eos_token_id"}
    shown = (*_PICTURE_ARGUMENTS, *model.crop_arguments, *model.choice_arguments)
    others = {"logits_processors", "seed", "generator", *shown, *_TEXT_ARGUMENTS, *_PASSED_OVER}
    refuse_unknown_arguments("generate", options, settings | others | {"stream"})
    text = text_inputs(
        input_ids,
        model.config.llm,
        device=model.device,
        **{k: options.get(k) for k in _TEXT_ARGUMENTS},
    )
    chosen = {name: options[name] for name in settings - {"eos_token_id", "pad_token_id"} if name in options}
    ends, pad = options.get("eos_token_id"), options.get("pad_token_id")
    params = GenerationParams(
        eos_token_ids=as_token_ids(model.tokenizer.eos_token_id if ends is None else ends),
        pad_token_id=model.tokenizer.pad_token_id if pad is None else pad,
        **chosen,
    )
    pictures = {name: options[name] for name in shown if options.get(name) is not None}
    room = _room(text, pictures, model)
    most = min(params.max_new_tokens, max(room))
    return Request(
        text=text,
        pictures=pictures,
        params=replace(params, max_new_tokens=most, min_new_tokens=min(most, params.min_new_tokens)),
        room=room,
        logits_processors=_hooks(options.get("logits_processors")),
        generator=_generator(options.get("seed"), options.get("generator")),
    )


def _room(text: TextInputs, pictures: Mapping[str, Any], model: GeneratingModel) -> list[int]:
    """How many more tokens the context of each row can take."""
    context = model.config.llm.max_sequence_length
    if text.attention_mask is not None and not bool(text.attention_mask.any(dim=1).all()):
        empty = int((~text.attention_mask.any(dim=1)).nonzero()[0])
        raise OLMoInputError(f"the prompt of row {empty} is empty: all of its tokens are padding")
    used = model.lengths_after_choice(text, pictures).tolist()
    check_context(max(used), model.config.llm)
    if max(used) >= context:
        raise OLMoInputError(
            f"the prompt of row {used.index(max(used))} has {max(used)} tokens and fills the context of {context}; "
            "shorten it or pass fewer pictures"
        )
    return [context - n for n in used]


def _hooks(given: Any) -> tuple[LogitsProcessor, ...]:
    hooks = (given,) if callable(given) else tuple(given or ())
    for hook in hooks:
        if not callable(hook):
            raise OLMoInputError(
                f"logits_processors holds {hook!r}, wanted callables (generated ids [B, S], logits [B, V]) -> logits"
            )
    return hooks


def _generator(seed: Any, generator: Generators) -> Generators:
    """The generator of a call. A seeded one lives on the CPU, so that every device draws the same."""
    if seed is None:
        return generator
    if generator is not None:
        raise OLMoInputError("give seed or generator, not both")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise OLMoInputError(f"seed is {seed!r}, wanted a whole number")
    return torch.Generator().manual_seed(seed)

"""How much memory answering takes on one device: weights, cache and the largest pass, before anything is loaded.

The pass over the prompt is gone through on the meta device, as it is written (see `live_bytes`), so it holds for every
variant and setting. On a CPU it is what torch allocates. Kernels of other devices take workspaces of their own on top,
and the program itself takes some hundred megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase
from olmo.models.generate import prefill
from olmo.models.info import model_info
from olmo.models.live_bytes import LiveBytes
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.text_inputs import text_inputs

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""Number formats and the type that they compute in. `int8` has matrices at one byte a number, all else as `bf16`."""

_UNUSED = -1


@dataclass(frozen=True)
class Prompts:
    """What is asked at once.

    Attributes:
        batch_size: rows.
        n_tokens: tokens of a row, those of pictures among them, before any are left out.
        n_crops: crops or frames of a row. Each has as many tokens as it can have and as there is room for.
        n_new_tokens: most tokens of an answer; the cache has room for them.
    """

    batch_size: int
    n_tokens: int
    n_crops: int = 0
    n_new_tokens: int = 0


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes at the moment at which most are taken."""

    weights_bytes: int
    """All parameters."""

    cache_bytes: int
    """Keys and values of prompts and answers, of the tokens that reach the language model."""

    activation_bytes: int
    """What the pass over the prompts takes on top at its peak: pictures, features, states between layers."""

    @property
    def total_bytes(self) -> int:
        """Everything."""
        return self.weights_bytes + self.cache_bytes + self.activation_bytes


def inference_memory(config: MolmoConfig, model_class: type[ModelBase], prompts: Prompts) -> dict[str, InferenceMemory]:
    """Memory that answering takes, by number format: those of `FORMATS`.

    Args:
        config: the model.
        model_class: what to build from it.
        prompts: how much is asked at once. Rows are equally long.

    Raises:
        OLMoInputError: sizes below what there must be, a prompt longer than the context, or pictures for a model that
            takes none.
    """
    _check(config, prompts)
    peaks = {dtype: _peak(config, model_class, prompts, dtype) for dtype in set(FORMATS.values())}
    weights, found = model_info(config, model_class).memory, {}
    for name, dtype in FORMATS.items():
        peak, cache_bytes = peaks[dtype]
        found[name] = InferenceMemory(weights[name].weights_bytes, cache_bytes, max(peak - cache_bytes, 0))
    return found


def _peak(config: MolmoConfig, model_class: type[ModelBase], prompts: Prompts, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes at the peak of the pass over the prompts, without weights, and those of the cache."""
    with torch.device("meta"):
        model = model_class(config.replace(quantization=None)).to(dtype).eval()
    input_ids, index = _layout(config, prompts)
    text = text_inputs(input_ids, config.llm)
    with torch.no_grad(), LiveBytes() as live:
        pictures = {} if index is None else _pictures(config, index)
        step, _ = prefill(model, text, prompts.n_new_tokens, **pictures)
    return live.peak, step.cache.n_bytes


def _check(config: MolmoConfig, prompts: Prompts) -> None:
    if prompts.batch_size < 1 or prompts.n_crops < 0 or prompts.n_new_tokens < 0:
        raise OLMoInputError(
            f"a batch of {prompts.batch_size} with {prompts.n_crops} crops and {prompts.n_new_tokens} new tokens "
            "cannot be meant; the first is 1 or more, the others 0 or more"
        )
    if prompts.n_crops and config.vision_backbone is None:
        raise OLMoInputError("this model has no vision backbone (vision_backbone is null): text only")
    if prompts.n_tokens <= prompts.n_crops:
        raise OLMoInputError(
            f"{prompts.n_tokens} tokens have no room for {prompts.n_crops} crops and a question; each crop takes one "
            "token at least"
        )
    longest = config.llm.max_sequence_length
    if prompts.n_tokens + prompts.n_new_tokens > longest:
        raise OLMoInputError(
            f"{prompts.n_tokens} tokens and {prompts.n_new_tokens} new ones exceed the context of {longest} "
            "(llm.max_sequence_length)"
        )


def _layout(config: MolmoConfig, prompts: Prompts) -> tuple[Tensor, Tensor | None]:
    """Ids `[B, L]`, and the place of each picture token `[B, N, tokens]`: crop after crop, then the question."""
    input_ids = torch.zeros(prompts.batch_size, prompts.n_tokens, dtype=torch.long)
    spec = config.image_spec
    if not prompts.n_crops or spec is None:
        return input_ids, None
    n = min(spec.tokens_per_crop, (prompts.n_tokens - 1) // prompts.n_crops)
    index = torch.full((prompts.n_crops, spec.tokens_per_crop), _UNUSED)
    index[:, :n] = torch.arange(prompts.n_crops * n).view(prompts.n_crops, n)
    input_ids[:, : prompts.n_crops * n] = config.image_token_ids.patch
    return input_ids, index.expand(prompts.batch_size, -1, -1).contiguous()


def _pictures(config: MolmoConfig, index: Tensor) -> dict[str, Tensor]:
    """Crops without numbers, as `prefill` takes them."""
    assert config.vision_backbone is not None, "checked before"
    spec = config.vision_backbone.vit.spec
    shape = (*index.shape[:2], 3, spec.image_size, spec.image_size)
    return {
        "images": torch.empty(shape, device="meta"),
        "image_masks": torch.ones(*index.shape[:2], spec.n_patches),
        "image_input_idx": index,
    }

"""From a model and prompts to text: prefill once through the model's own path, then decode through the LLM alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import decode_tokens
from olmo.generation.decode import generate as generate_tokens
from olmo.generation.params import GenerationParams
from olmo.generation.step import LogitsProcessor
from olmo.generation.stop_strings import StopStringMatcher
from olmo.models.outputs import OLMoGenerateOutput
from olmo.models.text_inputs import text_inputs
from olmo.nn.kv_cache import KVCache
from olmo.tokenizer import IncrementalDecoder

if TYPE_CHECKING:
    from olmo.models.base import ModelBase


@dataclass
class Prompt:
    """Inputs of a generation besides its settings."""

    input_ids: torch.Tensor
    images: torch.Tensor | None = None
    image_masks: torch.Tensor | None = None
    image_input_idx: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    metadata: Any = None
    """Ignored, so that what the preprocessor returns can be passed whole."""


class CachedStep:
    """One decoding step of a prefilled model: the `DecodeStep` that generation drives."""

    def __init__(
        self, model: ModelBase, cache: KVCache, key_is_valid: torch.Tensor | None, next_positions: torch.Tensor
    ):
        self.llm, self.cache = model.llm, cache
        self.key_is_valid = key_is_valid  # [B, S] over all slots, None when no row is padded
        self.positions = next_positions  # [B, 1]

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append `token_ids [B]` to the cache; returns the logits `[B, V]` after them."""
        mask = None
        if self.key_is_valid is not None:
            mask = self.key_is_valid[:, None, None, : self.cache.length + 1]  # [B, 1, 1, S]
        embeds = self.llm.embed(token_ids[:, None])  # [B, 1, D]
        out = self.llm(embeds, position_ids=self.positions, attention_mask=mask, cache=self.cache)
        self.positions = self.positions + 1
        return self.llm.logits(out.hidden[:, -1])

    def reorder(self, rows: torch.Tensor) -> None:
        """Make row i continue old row `rows[i]`."""
        self.cache.reorder(rows)
        self.positions = self.positions[rows]
        if self.key_is_valid is not None:
            self.key_is_valid = self.key_is_valid[rows]


def prefill(model: ModelBase, prompt: Prompt, max_new_tokens: int) -> tuple[CachedStep, torch.Tensor, torch.Tensor]:
    """Run the prompt once.

    Args:
        model: the model, in eval mode.
        prompt: what to continue.
        max_new_tokens: room to leave in the cache.

    Returns:
        The step that continues, the logits `[B, V]` of the first new token, and the prompt ids `[B, L]`.
    """
    text = text_inputs(
        prompt.input_ids,
        model.config.llm,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,
    )
    inputs = model.llm_inputs(text, prompt.images, prompt.image_masks, prompt.image_input_idx)
    cache = model.build_cache(inputs, extra_length=max_new_tokens)
    hidden = model.run_llm(inputs, cache).hidden
    last = inputs.last_real_position()
    rows = torch.arange(len(hidden), device=hidden.device)
    logits = model.llm.logits(hidden[rows, last])
    valid = inputs.attention_mask
    if valid is not None:
        valid = torch.cat([valid, valid.new_ones(len(hidden), max_new_tokens)], dim=1)
    positions = inputs.position_ids[rows, last][:, None] + 1
    return CachedStep(model, cache, valid, positions), logits, text.input_ids


def generate(model: ModelBase, input_ids: torch.Tensor, **options: Any) -> OLMoGenerateOutput:
    """See `ModelBase.generate`."""
    stream_to: Callable[[str], None] | None = options.pop("stream", None)
    if stream_to is not None:
        return _generate_streaming(model, input_ids, stream_to, options)
    prompt, params, hooks, generator = _split_options(model, input_ids, options)
    with _eval_mode(model):
        step, logits, prompt_ids = prefill(model, prompt, params.max_new_tokens)
        matcher = _matcher(model, params)
        tokens = generate_tokens(
            step,
            logits,
            params,
            prompt_ids=prompt_ids,
            logits_processors=hooks,
            generator=generator,
            is_stopped=None if matcher is None else matcher,
        )
    texts = [_text(model, row.tolist(), params, matcher) for row in tokens.token_ids]
    return OLMoGenerateOutput(tokens.token_ids, texts, tokens.scores)


def stream(model: ModelBase, input_ids: torch.Tensor, **options: Any) -> Iterator[str]:
    """See `ModelBase.stream`."""
    options.pop("stream", None)
    for piece, _ in _stream_steps(model, input_ids, options):
        if piece:
            yield piece


def _generate_streaming(
    model: ModelBase, input_ids: torch.Tensor, stream_to: Callable[[str], None], options: dict[str, Any]
) -> OLMoGenerateOutput:
    wants_scores = options.get("output_scores", False)
    pieces, steps = [], []
    for piece, step in _stream_steps(model, input_ids, options):
        if piece:
            pieces.append(piece)
            stream_to(piece)
        if step is not None:
            steps.append(step)
    ids = torch.stack([s.token_ids for s in steps], dim=1)
    scores = torch.stack([s.log_probs for s in steps], dim=1) if wants_scores else None
    return OLMoGenerateOutput(ids, ["".join(pieces)], scores)


def _stream_steps(model: ModelBase, input_ids: torch.Tensor, options: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of newly decodable text and decoding step; the last pair is (rest of the text, None)."""
    prompt, params, hooks, generator = _split_options(model, input_ids, options)
    decoder, is_start = IncrementalDecoder(model.tokenizer), True
    held = ""  # text that may still turn out to be the beginning of a stop string
    with torch.no_grad(), _eval_mode(model):
        step, logits, prompt_ids = prefill(model, prompt, params.max_new_tokens)
        if len(logits) != 1:
            raise OLMoInputError(f"streaming takes one example at a time, got a batch of {len(logits)}")
        matcher = _matcher(model, params)
        for decoded in decode_tokens(
            step, logits, params, prompt_ids=prompt_ids, logits_processors=hooks, generator=generator,
            is_stopped=matcher,
        ):  # fmt: skip
            token = int(decoded.token_ids[0])
            held += "" if token in params.eos_token_ids else decoder.push(token)
            ready, held = _releasable(held, params.stop_strings)
            if is_start and ready:
                ready, is_start = ready.removeprefix(" "), False
            yield ready, decoded
    rest = held + decoder.flush()
    if matcher is not None:
        rest = matcher.trim(rest)
    yield rest.removeprefix(" ") if is_start else rest, None


def _releasable(held: str, stop_strings: Sequence[str]) -> tuple[str, str]:
    """Split text into what can be shown and what must wait because a stop string may begin in it."""
    cut = len(held)
    for stop in stop_strings:
        at = held.find(stop)
        if at >= 0:
            cut = min(cut, at)
            continue
        for size in range(min(len(stop) - 1, len(held)), 0, -1):
            if held.endswith(stop[:size]):
                cut = min(cut, len(held) - size)
                break
    return held[:cut], held[cut:]


def _split_options(
    model: ModelBase, input_ids: torch.Tensor, options: dict[str, Any]
) -> tuple[Prompt, GenerationParams, Sequence[LogitsProcessor], torch.Generator | None]:
    """Sort the keyword arguments into inputs, settings, hooks and randomness; unknown ones are an error."""
    options = dict(options)
    hooks = tuple(options.pop("logits_processors", None) or ())
    seed, generator = options.pop("seed", None), options.pop("generator", None)
    if seed is not None and generator is not None:
        raise OLMoInputError("give seed or generator, not both")
    if seed is not None:
        generator = torch.Generator(device=model.device).manual_seed(int(seed))
    prompt_names = set(Prompt.__dataclass_fields__)
    prompt = Prompt(input_ids, **{k: options.pop(k) for k in list(options) if k in prompt_names})
    ends, pad = options.pop("eos_token_id", None), options.pop("pad_token_id", None)
    known = set(GenerationParams.__dataclass_fields__)
    unknown = sorted(set(options) - known)
    if unknown:
        raise OLMoInputError(
            f"generate does not know {', '.join(unknown)}; settings: "
            f"{', '.join(sorted((known | {'seed', 'generator', 'stream', 'logits_processors'}) - {'eos_token_ids'}))}"
        )
    ends = model.tokenizer.eos_token_id if ends is None else ends
    pad = model.tokenizer.pad_token_id if pad is None else pad
    params = GenerationParams(eos_token_ids=ends, pad_token_id=pad, **options)
    room = model.config.llm.max_sequence_length - input_ids.shape[-1]
    if room < 1:
        raise OLMoInputError(
            f"the prompt has {input_ids.shape[-1]} tokens and fills the context of "
            f"{model.config.llm.max_sequence_length}; shorten it or pass fewer pictures"
        )
    if params.max_new_tokens > room:
        params = replace(params, max_new_tokens=room, min_new_tokens=min(room, params.min_new_tokens))
    return prompt, params, hooks, generator


def _matcher(model: ModelBase, params: GenerationParams) -> StopStringMatcher | None:
    if not params.stop_strings:
        return None
    return StopStringMatcher(params.stop_strings, model.tokenizer.decode)


def _text(model: ModelBase, ids: list[int], params: GenerationParams, matcher: StopStringMatcher | None) -> str:
    for position, token in enumerate(ids):
        if token in params.eos_token_ids:
            ids = ids[:position]
            break
    text = model.tokenizer.decode(ids)
    if matcher is not None:
        text = matcher.trim(text)
    return text.removeprefix(" ")


class _eval_mode:
    """Dropout off for the time of a call."""

    def __init__(self, model: ModelBase) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)

"""From a model and prompts to text: prefill once through the model's own path, then decode through the LLM alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from olmo.exceptions import OLMoInputError
from olmo.generation.decode import DecodedStep, decode_tokens
from olmo.generation.decode import generate as generate_tokens
from olmo.generation.params import GenerationParams
from olmo.generation.prompt_lookup import LookupStep
from olmo.generation.step import DecodeStep
from olmo.generation.stop_strings import StopStringFilter, StopStringMatcher
from olmo.models.compiled_decoding import CompiledDecoding, Lease
from olmo.models.generation_request import GeneratingModel, Request, read_request
from olmo.models.outputs import OLMoGenerateOutput
from olmo.models.text_inputs import TextInputs
from olmo.nn.attention_mask import build_attention_mask
from olmo.nn.kv_cache import KVCache
from olmo.tokenizer import IncrementalDecoder


class CachedStep:
    """One decoding step of a prefilled model: the `DecodeStep` that generation drives.

    Where the model has a compiled step, the cache moves into one of fixed size when the first token comes.
    """

    def __init__(
        self,
        model: GeneratingModel,
        cache: KVCache,
        key_is_valid: torch.Tensor | None,
        next_positions: torch.Tensor,
        aux: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.llm, self.cache, self.aux = model.llm, cache, aux or None
        self.key_is_valid = key_is_valid  # [B, S] over all slots, None when new tokens may see every key
        self.positions = next_positions  # [B, 1]
        self.compiled = model.compiled_decoding
        self._lease: Lease | None = None

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append `token_ids [B]` to the cache; returns the logits `[B, V]` after them."""
        return self.run(token_ids[:, None])[:, -1]

    def run(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Append `token_ids [B, n]` to the cache; returns the logits `[B, n, V]` after each."""
        n = token_ids.shape[1]
        if self.compiled is not None:
            self._settle(self.compiled, n)
            if n == 1:
                return self._run_compiled(self.compiled, token_ids)
        past, mask = self.cache.length, None
        if self.key_is_valid is not None:
            valid = self.key_is_valid[:, : past + n]  # a single new token may see what is valid, without more ado
            mask = valid[:, None, None] if n == 1 else build_attention_mask(n, past_length=past, key_is_valid=valid)
        positions = self.positions + torch.arange(n, device=self.positions.device)
        out = self.llm(self.llm.embed(token_ids), position_ids=positions, attention_mask=mask, cache=self.cache)
        self.positions = self.positions + n
        return self.llm.logits(out.hidden)

    def _settle(self, compiled: CompiledDecoding, n: int) -> None:
        """Have the cache where a compiled step can use it, with room for `n` tokens."""
        if self._lease is None or self.room < n:
            self._lease = compiled.lease(self.cache, max(self.room, n))
            self.cache = self._lease.cache
            self.key_is_valid = self._over_all_slots(self.cache.max_length)

    def _run_compiled(self, compiled: CompiledDecoding, token_ids: torch.Tensor) -> torch.Tensor:
        """`run` for one token."""
        assert self._lease is not None and self.key_is_valid is not None, "it has settled"
        logits = compiled.step(self.llm, token_ids, self.positions, self._lease.cache, self.key_is_valid)
        self.positions = self.positions + 1
        return logits

    def _over_all_slots(self, n_slots: int) -> torch.Tensor:
        """Which keys new tokens may see, `[B, n_slots]`; slots that are still empty are not meant here."""
        if self.key_is_valid is None:
            return torch.ones(len(self.positions), n_slots, dtype=torch.bool, device=self.positions.device)
        valid = self.key_is_valid[:, :n_slots]
        return torch.nn.functional.pad(valid, (0, n_slots - valid.shape[1]), value=True)

    def take_back(self, n: int) -> None:
        """Forget the last `n` tokens of each row."""
        self.cache.take_back(n)
        self.positions = self.positions - n

    @property
    def room(self) -> int:
        """Tokens that the cache has place for."""
        return self.cache.max_length - self.cache.length

    def reorder(self, rows: torch.Tensor) -> None:
        """Make row i continue old row `rows[i]`."""
        if self._lease is not None and len(rows) != self.cache.batch_size:
            self.cache, self._lease = KVCache.from_tuple(self.cache.as_tuple(), self.room), None
        self.cache.reorder(rows)
        self.positions = self.positions[rows]
        if self.key_is_valid is not None:
            self.key_is_valid = self.key_is_valid[rows]


class RowEnd:
    """Why a row ends besides its end ids: a stop string is complete, or its own context is full."""

    def __init__(self, matcher: StopStringMatcher, room: Sequence[int]) -> None:
        self.matcher, self.room = matcher, room

    def __call__(self, row: int, ids: list[int]) -> bool:
        """Whether `row` ends with the newest of its generated `ids`."""
        return len(ids) >= self.room[row] or self.matcher(row, ids)


def generate(model: GeneratingModel, input_ids: torch.Tensor, **options: Any) -> OLMoGenerateOutput:
    """See `ModelBase.generate`."""
    stream_to: Callable[[str], None] | None = options.pop("stream", None)
    request = read_request(model, input_ids, options)
    if stream_to is not None:
        return _generate_streaming(model, request, stream_to)
    matcher = StopStringMatcher(request.params.stop_strings, model.tokenizer.decode)
    with torch.no_grad(), _eval_mode(model):
        step, logits = prefill(model, request.text, request.params.max_new_tokens, **request.pictures)
        tokens = generate_tokens(_guessing(step, request), logits, request.params, **_decoding(request, matcher))
    texts = []
    for ids, room in zip(tokens.token_ids.tolist(), request.room, strict=True):
        texts.append(_text(model, ids[:room], request.params, matcher))
    return OLMoGenerateOutput(tokens.token_ids, texts, tokens.scores, step.aux)


def stream(model: GeneratingModel, input_ids: torch.Tensor, **options: Any) -> Iterator[str]:
    """See `ModelBase.stream`. The arguments are checked at once, the model runs when text is asked for."""
    request = read_request(model, input_ids, options)
    _require_one_row(request)
    return (piece for piece, _ in _stream_steps(model, request, {}) if piece)


def prefill(model: GeneratingModel, text: TextInputs, n_new: int, **pictures: Any) -> tuple[CachedStep, torch.Tensor]:
    """Run prompts once.

    Args:
        model: in eval mode.
        text: the prompts, padded on either side.
        n_new: tokens to leave room for in the cache.
        **pictures: `images`, `image_masks`, `image_input_idx` and so on, as `forward` takes them.

    Returns:
        The step that continues the prompts, and the logits `[B, V]` of the first new token.
    """
    prefix, patch_id = model.prefix_cache if model.reuses_prefixes() else None, model.config.image_token_ids.patch
    if prefix is not None and (known := prefix.take(text, pictures, n_new, patch_id)) is not None:
        return _prefill_rest(model, text, pictures, *known)
    inputs = model.llm_inputs(text, **pictures)
    cache = model.build_cache(inputs, extra_length=n_new)
    hidden = model.read_prompt(inputs, cache)
    rows, last = torch.arange(len(hidden), device=hidden.device), inputs.last_real_position()
    valid, segments = inputs.attention_mask, inputs.segment_ids
    if segments is not None:  # new tokens go on with the last conversation of a message tree
        is_open = segments >= segments[rows, last][:, None]  # [B, L]
        valid = is_open if valid is None else valid & is_open
    if valid is not None:
        valid = torch.cat([valid, valid.new_ones(len(hidden), n_new)], dim=1)  # [B, L + n_new]
    positions = inputs.position_ids[rows, last][:, None] + 1
    if prefix is not None:
        prefix.keep(text, pictures, cache)
    return CachedStep(model, cache, valid, positions, inputs.aux), model.llm.logits(hidden[rows, last])


def _prefill_rest(
    model: GeneratingModel, text: TextInputs, pictures: dict[str, Any], cache: KVCache, n_known: int
) -> tuple[CachedStep, torch.Tensor]:
    """Run what follows the `n_known` tokens whose keys and values are in the cache; pictures lie among those."""
    rest = text.input_ids[:, n_known:]
    hidden = model.llm(model.llm.embed(rest), position_ids=text.position_ids[:, n_known:], cache=cache).hidden
    assert model.prefix_cache is not None, "the cache came from there"
    model.prefix_cache.keep(text, pictures, cache)
    return CachedStep(model, cache, None, text.position_ids[:, -1:] + 1), model.llm.logits(hidden[:, -1])


def _guessing(step: CachedStep, request: Request) -> DecodeStep:
    """The step, with guesses where they are asked for."""
    n_guesses = request.params.prompt_lookup
    if not n_guesses:
        return step
    if len(request.text.input_ids) != 1:
        raise OLMoInputError(
            f"prompt_lookup={n_guesses} is for one prompt at a time, got a batch of {len(request.text.input_ids)}; "
            "leave it out or call generate once for each"
        )
    return LookupStep(step, request.text.input_ids[0].tolist(), n_guesses)


def _decoding(request: Request, matcher: StopStringMatcher) -> dict[str, Any]:
    """What the decoding loop is told besides the settings; asking about ends costs a little, so only where needed."""
    is_tight = min(request.room) < request.params.max_new_tokens
    return {
        "prompt_ids": request.text.input_ids,
        "logits_processors": request.logits_processors,
        "generator": request.generator,
        "is_stopped": RowEnd(matcher, request.room) if is_tight or request.params.stop_strings else None,
    }


def _generate_streaming(
    model: GeneratingModel, request: Request, stream_to: Callable[[str], None]
) -> OLMoGenerateOutput:
    _require_one_row(request)
    pieces, steps, aux = [], [], dict[str, torch.Tensor]()
    for piece, step in _stream_steps(model, request, aux):
        if piece:
            pieces.append(piece)
            stream_to(piece)
        if step is not None:
            steps.append(step)
    scores = [step.log_probs for step in steps if step.log_probs is not None]
    return OLMoGenerateOutput(
        token_ids=torch.stack([step.token_ids for step in steps], dim=1),  # [1, S]
        text=["".join(pieces)],
        scores=torch.stack(scores, dim=1) if scores else None,
        aux=aux or None,
    )


def _stream_steps(
    model: GeneratingModel, request: Request, aux: dict[str, torch.Tensor]
) -> Iterator[tuple[str, DecodedStep | None]]:
    """Pairs of newly decodable text and decoding step; the last pair is (rest of the text, None). Fills `aux`.

    Gradients and dropout are off only while the model runs, not while whoever reads the stream does.
    """
    matcher = StopStringMatcher(request.params.stop_strings, model.tokenizer.decode)
    decoder, shown, is_start = IncrementalDecoder(model.tokenizer), StopStringFilter(matcher), True
    with torch.no_grad(), _eval_mode(model):
        step, logits = prefill(model, request.text, request.params.max_new_tokens, **request.pictures)
    aux.update(step.aux or {})
    steps = decode_tokens(_guessing(step, request), logits, request.params, **_decoding(request, matcher))
    while True:
        with torch.no_grad(), _eval_mode(model):
            decoded = next(steps, None)
        if decoded is None:
            piece = shown.push(decoder.flush()) + shown.finish()
        else:
            token = int(decoded.token_ids[0])
            piece = "" if token in request.params.eos_token_ids else shown.push(decoder.push(token))
        if is_start and piece:
            piece, is_start = piece.removeprefix(" "), False
        yield piece, decoded
        if decoded is None:
            return


def _require_one_row(request: Request) -> None:
    n_rows = len(request.text.input_ids)
    if n_rows != 1:
        raise OLMoInputError(f"streaming takes one example at a time, got a batch of {n_rows}")
    if request.params.num_beams > 1:
        raise OLMoInputError(
            f"num_beams={request.params.num_beams} cannot be streamed: a beam search knows its answer only at the end; "
            "use num_beams=1"
        )


def _text(model: GeneratingModel, ids: list[int], params: GenerationParams, matcher: StopStringMatcher) -> str:
    """Text of one row: up to its end, before a stop string, without the space that every answer begins with."""
    n_kept = next((i for i, token in enumerate(ids) if token in params.eos_token_ids), len(ids))
    return matcher.trim(model.tokenizer.decode(ids[:n_kept])).removeprefix(" ")


@contextmanager
def _eval_mode(model: GeneratingModel) -> Iterator[None]:
    """Dropout off for the time of a call; each module gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True

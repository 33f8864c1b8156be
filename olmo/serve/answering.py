"""Between the server's event loop and the engine's thread: a request is checked, prepared, handed in, listened to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from olmo.engine.continuous import ContinuousEngine
from olmo.engine.request import Finish, Piece, Question, Ticket
from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.preprocessing.video.video_spec import VideoSpec
from olmo.serve.constrained import Constrainer
from olmo.serve.details import SelectionNote
from olmo.serve.errors import ApiError, as_api_error, too_large, try_later
from olmo.serve.media import Media
from olmo.serve.metrics import Metrics
from olmo.serve.protocol import ChatRequest, ImagePart, TextPart, VideoPart
from olmo.serve.serve_config import ServeConfig

T = TypeVar("T")

_PREPARERS = 2  # threads; more would only take time from the engine's
_TOO_LONG = ("max_seq_len", "context of", "context has room")
"""What messages of the preprocessor and the model hold where a prompt is too long."""


class Running:
    """A request that the engine has taken in.

    Attributes:
        n_prompt_tokens: tokens of the prompt.
        n_new_tokens: tokens of all answers so far.
        image_sizes: width and height of each picture, in pixels.
        selection: what the model tells of its choice among picture tokens; None: nobody asked.
    """

    def __init__(self, n_choices: int, image_sizes: list[tuple[int, int]], metrics: Metrics, start: float) -> None:
        self.image_sizes, self.n_new_tokens, self.n_prompt_tokens = image_sizes, 0, 0
        self.selection: SelectionNote | None = None
        self._n_left, self._metrics, self._start = n_choices, metrics, start
        # Bounded by the tokens of the request, which are: nothing waits where a client reads slowly.
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ticket: Ticket | None = None

    def tell(self, piece: Piece) -> None:
        """Is called from the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def begin(self, ticket: Ticket) -> None:
        """Note that the engine has it."""
        self._ticket, self.n_prompt_tokens = ticket, ticket.n_prompt_tokens
        self._metrics.prompt_tokens.inc(ticket.n_prompt_tokens)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What comes, to the end of the last answer.

        Raises:
            ApiError: 429 or 504: it took too long; 503: the server is being stopped; 500: the model failed.
        """
        while self._n_left:
            piece = await self._pieces.get()
            if piece.token_id is not None:
                if not self.n_new_tokens:
                    self._metrics.first_token.observe(time.perf_counter() - self._start)
                self.n_new_tokens += 1
                self._metrics.new_tokens.inc()
            if piece.finish is not None:
                self._n_left -= 1
                self._check(piece)
            yield piece

    def close(self) -> None:
        """Give up what is not answered yet; after the last answer nothing happens."""
        if self._n_left and self._ticket is not None:
            self._metrics.cancelled.inc()
            self._ticket.cancel()
            self._n_left = 0

    def _check(self, piece: Piece) -> None:
        if piece.finish is Finish.timeout:
            if not self.n_new_tokens:
                raise try_later(429, "the server is too busy: the request waited too long for a place", "queue_timeout")
            raise try_later(504, "the answer takes longer than the server allows; ask for fewer tokens", "timeout")
        if piece.finish is Finish.cancelled:
            raise try_later(503, "the server is being stopped", "stopping")
        if piece.finish is Finish.error:
            raise as_api_error(piece.error or RuntimeError("the engine gave no reason"))


class Answering:
    """Answers requests with one model.

    Args:
        model: any model; nobody else may use it meanwhile.
        config: limits.
        media: gets pixels; None: as a server for strangers does.

    Attributes:
        engine: the engine.
        metrics: figures.
        is_draining: no more requests are taken in.
    """

    def __init__(self, model: ModelBase, config: ServeConfig, media: Media | None = None) -> None:
        self.config, self.model, self.is_draining = config, model, False
        # Whoever was admitted has a place in the queue, also while no row is taken yet.
        n_places = config.max_rows + config.max_waiting
        self.engine = ContinuousEngine(model, max_rows=config.max_rows, max_waiting=n_places)
        self.metrics = Metrics(self.engine)
        context = model.config.llm.max_sequence_length
        self._prepare = model.config.build_preprocessor(
            for_inference=True, max_seq_len=min(context, config.max_prompt_tokens or context)
        )
        self._media = media or Media(config, video_spec(model))
        self._constrain = Constrainer(model.tokenizer, config.max_schema_bytes)
        self._threads = ThreadPoolExecutor(_PREPARERS, thread_name_prefix="olmo-prepare")
        self._n_admitted = 0

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken in."""
        return self.engine.is_alive and not self.is_draining

    @property
    def n_admitted(self) -> int:
        """Requests that are being read, prepared or answered."""
        return self._n_admitted

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place for one request, from before its body is read until its answer has left.

        Raises:
            ApiError: 429: there is none; 503: the server takes no requests.
        """
        if not self.is_ready:
            raise try_later(503, "the server takes no requests at the moment", "not_ready")
        limit = self.config.max_rows + self.config.max_waiting
        if self._n_admitted >= limit:
            raise try_later(429, f"{limit} requests are being answered, which is the limit; try again later", "busy")
        self._n_admitted += 1
        try:
            yield
        finally:
            self._n_admitted -= 1

    async def begin(self, request: ChatRequest, client: str) -> Running:
        """Check, prepare and hand in one request.

        Args:
            request: the request.
            client: whose it is; clients take turns.

        Raises:
            ApiError: it cannot be answered, or not now.
        """
        start = time.perf_counter()
        options = self._options(request)
        example = await self._example(request)
        inputs = await self._in_thread(lambda: self._prepared(example))
        hooks = await self._in_thread(lambda: self._constrain.hooks(request))
        running = Running(request.n_choices, inputs["metadata"]["image_sizes"], self.metrics, start)
        if request.include_details:
            running.selection = SelectionNote(self.model, inputs)
        question = Question(
            inputs, options, n=request.n_choices, n_top_log_probs=request.n_top_log_probs, hooks=hooks, client=client,
            timeout_s=self.config.request_timeout_s,
            on_prompt=None if running.selection is None else running.selection.hear,
        )  # fmt: skip
        try:
            running.begin(self.engine.submit(question, running.tell))
        except OLMoInputError as error:
            raise _as_too_long(error) from None
        return running

    async def close(self) -> None:
        """Stop the engine, and end processes and threads."""
        self.is_draining = True
        await asyncio.to_thread(self.engine.close)
        await self._media.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _options(self, request: ChatRequest) -> dict[str, Any]:
        """Arguments of `generate`, checked against the limits."""
        config = self.config
        if request.model != config.model_name:
            raise ApiError(
                404, f"there is no model of that name; this server has {config.model_name!r}", code="model_not_found",
                param="model",
            )  # fmt: skip
        if request.n_choices > config.max_choices:
            raise ApiError(400, f"n is {request.n_choices}, at most {config.max_choices}", code="too_many", param="n")
        wanted = request.wanted_tokens
        if wanted is not None and wanted > config.max_new_tokens:
            message = f"max_tokens is {wanted}, over the limit of {config.max_new_tokens}"
            raise too_large(message, "too_many_tokens", "max_tokens")
        if request.n_characters() > config.max_prompt_chars:
            message = (
                f"the text has {request.n_characters():,} characters, over the limit of {config.max_prompt_chars:,}"
            )
            raise too_large(message, "context_length_exceeded", "messages")
        if request.selection_ratio is not None and "selection_ratio" not in self.model.choice_arguments:
            raise ApiError(
                400, "this model does not choose among picture tokens; leave selection_ratio out", code="unsupported",
                param="selection_ratio",
            )  # fmt: skip
        n_new = min(wanted or config.default_max_tokens, config.max_new_tokens)
        return {**request.generation(), "max_new_tokens": n_new}

    async def _example(self, request: ChatRequest) -> dict[str, Any]:
        """The messages with their pictures decoded."""
        parts = [part for turn in request.messages for part in turn.parts() if not isinstance(part, TextPart)]
        if len(parts) > self.config.max_images:
            message = f"the request has {len(parts)} pictures, over the limit of {self.config.max_images}"
            raise too_large(message, "too_many_images", "messages")
        messages = []
        for turn in request.messages:
            content = [await self._part(part) for part in turn.parts()]
            messages.append({"role": turn.role, "content": content})
        return {"messages": messages}

    async def _part(self, part: TextPart | ImagePart | VideoPart) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        if isinstance(part, ImagePart):
            return {"type": "image", "image": await self._media.picture(part.image_url.url)}
        return {"type": "video", "video": await self._media.video(part.video_url.url)}

    def _prepared(self, example: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._prepare(example)
        except OLMoInputError as error:
            raise _as_too_long(error) from None

    async def _in_thread(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)


def video_spec(model: ModelBase) -> VideoSpec | None:
    """How a model is shown videos; None where it takes none."""
    config = model.config
    return config.video_spec if isinstance(config, VideoOlmoConfig) and config.vision_backbone is not None else None


def _as_too_long(error: OLMoInputError) -> ApiError:
    """An error about a prompt, as one of size where that is what it is about."""
    if any(words in str(error) for words in _TOO_LONG):
        return too_large(f"the prompt is too long: {error}", "context_length_exceeded", "messages")
    return as_api_error(error)

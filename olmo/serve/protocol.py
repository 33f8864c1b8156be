"""Requests of the OpenAI chat protocol, as far as they can be answered. Nothing that matters is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from olmo.serve.errors import ApiError, of_validation

MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_STOP_CHARS, MAX_TOP_LOGPROBS = 256, 256, 4, 256, 20
_MAX_VALUES = 300_000  # values of a body: each takes far more memory than it has bytes

_SYSTEM = "this model takes no system messages; put instructions into the first user message"


def _form(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(_Strict):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is; a `data:` address holds it."""

    url: str
    detail: Literal["auto", "high"] | None = None


class ImagePart(_Strict):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(_Strict):
    """A `data:` address that holds a video."""

    url: str


class VideoPart(_Strict):
    """A video of a message."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True)]


class ChatMessage(_Strict):
    """One turn. The null fields are those that answers of the protocol have, so that an answer can be sent back."""

    role: Literal["user", "assistant"]
    content: Annotated[Annotated[str, Tag("text")] | Annotated[Parts, Tag("list")], Discriminator(_form)]
    name: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @field_validator("role", mode="before")
    @classmethod
    def _no_system(cls, value: Any) -> Any:
        if value in ("system", "developer"):
            raise ValueError(_SYSTEM)
        return value

    def parts(self) -> list[Part]:
        """The content as parts."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class StreamOptions(_Strict):
    """What a stream tells besides the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class JsonSchema(_Strict):
    """A schema that an answer is held to."""

    name: Annotated[str, Field(max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextFormat(_Strict):
    """An answer in words."""

    type: Literal["text"]


class JsonObjectFormat(_Strict):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(_Strict):
    """An answer that is JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    Annotated[Stop, Tag("text")] | Annotated[list[Stop], Field(max_length=MAX_STOPS), Tag("list")], Discriminator(_form)
]


class ChatRequest(_Strict):
    """A request for an answer.

    Two fields are ours: `selection_ratio`, the share of picture tokens that a HeMolmo keeps, and `include_details`,
    which adds the field `olmo` to the answer, or to the last chunk before the usage: its points and what was kept.
    """

    model: Annotated[str, Field(max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    selection_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    include_details: bool | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    tool_choice: Literal["none"] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    # These change no answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens mean the same; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is told only with logprobs=true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream=true")
        if self.include_details and self.n_choices > 1:
            raise ValueError("include_details tells of one answer; leave n out")
        return self

    @property
    def n_choices(self) -> int:
        """Answers that are wanted."""
        return self.n or 1

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens of an answer; None was left open."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def n_top_log_probs(self) -> int | None:
        """Likeliest tokens to tell of; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are drawn at random: where the request asks for it in any way."""
        if self.temperature is not None:
            return self.temperature > 0
        return self.top_p is not None or self.n_choices > 1

    def generation(self) -> dict[str, Any]:
        """Arguments of `generate`, but the number of tokens."""
        options: dict[str, Any] = {"stop_strings": self.stop_strings, "do_sample": self.is_drawn}
        if self.is_drawn:
            options |= {"temperature": self.temperature if self.temperature is not None else 1.0}
            options |= {"top_p": self.top_p if self.top_p is not None else 1.0}
        if self.seed is not None:
            options["seed"] = self.seed % 2**62
        if self.selection_ratio is not None:
            options["selection_ratio"] = self.selection_ratio
        return options

    def n_characters(self) -> int:
        """Characters of all text."""
        return sum(len(part.text) for turn in self.messages for part in turn.parts() if isinstance(part, TextPart))


def read_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: 400: not JSON, or not such a request; the message names the field.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MAX_VALUES:
        raise ApiError(400, f"the body holds more than {_MAX_VALUES:,} values", code="invalid_json")
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error) from None

"""`DataFormatter`: from a parsed example to the texts the model reads and the texts it is to write.

It chooses wordings, adds the style prefix and the role words, and writes answers from points, options or votes. It
knows nothing of tokens. Source: the message format of the released Molmo v1 processors (` User: ... Assistant:`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing import points as point_text
from olmo.preprocessing.messages import Conversation, Message, Role
from olmo.preprocessing.prompts import DEMO_STYLES, TEMPLATES, UNPREFIXED_STYLES, choose_prompt

CHARACTERS_PER_LENGTH_UNIT = 15
LENGTH_NOISE_CHARACTERS = 25
PROBABILITY_LENGTH_DROPPED = 0.1
PROBABILITY_DEMO_PREFIX = 0.1


class PromptTemplates(ConfigEnum):
    """What is asked where an example brings no question."""

    none = "none"
    uber_model = "uber_model"


class MessageFormat(ConfigEnum):
    """How turns are told apart."""

    none = "none"
    role = "role"


class SystemPrompt(ConfigEnum):
    """What stands before the first user message."""

    none = "none"
    style = "style"
    style_and_length = "style_and_length"
    demo_or_style = "demo_or_style"


class LossTokenWeighting(ConfigEnum):
    """How the answers of several conversations on one picture are weighed."""

    none = "none"
    root_subsegments = "root_subsegments"


class Piece(NamedTuple):
    """A stretch of text that is either read or to be written."""

    text: str
    is_answer: bool


@dataclass(kw_only=True)
class DataFormatter(BaseConfig):
    """How examples become text. The defaults are those of the released fine-tuned models."""

    prompt_templates: PromptTemplates = PromptTemplates.uber_model
    """Where the question is left open: `none` takes the label; `uber_model` a wording to caption, point or count."""

    message_format: MessageFormat = MessageFormat.role
    """`role`: `User: ... Assistant:` around user turns; `none`: bare turns (caption pretraining)."""

    system_prompt: SystemPrompt = SystemPrompt.demo_or_style
    """Prefix of the first user turn: `none`; `style`; `style_and_length` (style and answer length, for captioning);
    `demo_or_style` (the style, seldom for conversational ones). Without a style there is no prefix."""

    always_start_with_space: bool = True
    """Begin the very first turn with a space too; all later ones do."""

    default_inference_len: int | None = 65
    """`style_and_length` at inference: answer length in units of 15 characters; null asks for no length."""

    loss_token_weighting: LossTokenWeighting = LossTokenWeighting.root_subsegments
    """`root_subsegments`: with k conversations on one picture each token weighs sqrt(1/k); `none`: each weighs 1."""

    shuffle_messages: bool = False
    """Draw the order of the conversations on one picture in training; it matters only where the last ones are cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.default_inference_len is not None and self.default_inference_len < 0:
            raise OLMoConfigurationError(
                f"must be >= 0 or null, got {self.default_inference_len}", "default_inference_len"
            )

    def format_conversations(
        self,
        conversations: tuple[Conversation, ...],
        image_size: tuple[int, int] | None,
        rng: np.random.Generator | None,
        for_inference: bool,
    ) -> list[list[Piece]]:
        """The pieces of each conversation, in the order they are laid out.

        Args:
            conversations: parsed conversations on the same pictures.
            image_size: (width, height) of the first picture in pixels, None without picture.
            rng: draws wordings, prefixes and order; None draws nothing and takes the first or the plainest.
            for_inference: leave out the answer; nothing is drawn.

        Raises:
            OLMoInputError: empty prompt, no label to point at, an answer where none may be or none where one must be.
        """
        if for_inference and len(conversations) != 1:
            raise OLMoInputError(
                f"inference answers one conversation at a time, got {len(conversations)} in 'message_list'"
            )
        rng = None if for_inference else rng
        pieces = [self.format_conversation(c, image_size, rng, for_inference) for c in conversations]
        if self.shuffle_messages and rng is not None:
            pieces = [pieces[i] for i in rng.permutation(len(pieces))]
        return pieces

    def format_conversation(
        self,
        conversation: Conversation,
        image_size: tuple[int, int] | None,
        rng: np.random.Generator | None,
        for_inference: bool,
    ) -> list[Piece]:
        """The pieces of one conversation; see `format_conversations`."""
        messages = self._complete(conversation, image_size, rng, for_inference)
        first = messages[0].text
        prefix = self._prefix(conversation.style, messages[-1], rng, for_inference)
        first = " ".join(part for part in (prefix, first) if part)
        if for_inference and not first.strip():
            raise OLMoInputError(
                f"empty prompt: with style {conversation.style!r} the formatter (prompt_templates="
                f"{self.prompt_templates.value}, system_prompt={self.system_prompt.value}) adds nothing; write a prompt"
            )
        return self._pieces([replace(messages[0], text=first), *messages[1:]])

    def loss_weight(self, n_conversations: int) -> float:
        """Weight of each answer token where `n_conversations` share their pictures."""
        if n_conversations > 1 and self.loss_token_weighting is LossTokenWeighting.root_subsegments:
            return float(np.sqrt(1.0 / n_conversations))
        return 1.0

    def _complete(
        self,
        conversation: Conversation,
        image_size: tuple[int, int] | None,
        rng: np.random.Generator | None,
        for_inference: bool,
    ) -> list[Message]:
        """All turns, the first question and the last answer written where the example leaves them open."""
        messages = list(conversation.messages)
        if not messages[0].text.strip():
            messages[0] = Message(Role.user, self._question(conversation, rng))
        if conversation.options:
            messages[0] = Message(Role.user, _with_options(messages[0].text, conversation.options))
        if for_inference:
            if messages[-1].role is Role.assistant:
                raise OLMoInputError(
                    "the last message is the assistant's, so there is nothing to answer; leave it out, or build the "
                    "preprocessor with for_inference=False to compute its loss"
                )
        elif messages[-1].role is Role.user:
            if not conversation.has_derived_target:
                raise OLMoInputError(
                    "nothing to learn from: the last message is the user's and there are no 'answers', 'answer_idx' or "
                    "'points'; add the assistant's message, or build the preprocessor with for_inference=True"
                )
            messages.append(Message(Role.assistant, _derived_answer(conversation, image_size, rng)))
        return messages

    def _question(self, conversation: Conversation, rng: np.random.Generator | None) -> str:
        if self.prompt_templates is PromptTemplates.uber_model and conversation.style in TEMPLATES:
            return choose_prompt(conversation.style, conversation.label, rng)
        return conversation.label or ""

    def _prefix(self, style: str | None, last: Message, rng: np.random.Generator | None, for_inference: bool) -> str:
        if style is None or self.system_prompt is SystemPrompt.none:
            return ""
        if self.system_prompt is SystemPrompt.style_and_length:
            return self._length_prefix(style, len(last.text), rng, for_inference)
        if self.system_prompt is SystemPrompt.demo_or_style:
            if style in UNPREFIXED_STYLES:
                return ""
            if style in DEMO_STYLES and (rng is None or rng.random() > PROBABILITY_DEMO_PREFIX):
                return ""
        return f"{style}:"

    def _length_prefix(
        self, style: str, n_characters: int, rng: np.random.Generator | None, for_inference: bool
    ) -> str:
        if for_inference:
            length = "" if self.default_inference_len is None else str(self.default_inference_len)
            return f"{style} {length}:"
        if rng is not None:
            if rng.random() <= PROBABILITY_LENGTH_DROPPED:
                return f"{style} :"
            n_characters += int(rng.normal(scale=LENGTH_NOISE_CHARACTERS))
        # A short answer with unlucky noise would ask for a negative length, which no user ever writes.
        return f"{style} {max(n_characters, 0) // CHARACTERS_PER_LENGTH_UNIT}:"

    def _pieces(self, messages: list[Message]) -> list[Piece]:
        pieces: list[Piece] = []
        for i, message in enumerate(messages):
            is_answer = message.role is Role.assistant
            text = message.text
            if not is_answer and self.message_format is MessageFormat.role:
                text = f"User: {text} Assistant:"
            if not text:
                continue
            lead = " " if i > 0 or self.always_start_with_space else ""
            pieces.append(Piece(lead + text, is_answer))
        return pieces


def _with_options(question: str, options: tuple[str, ...]) -> str:
    if len(options) > 26:
        raise OLMoInputError(f"multiple choice takes at most 26 'options' (A to Z), got {len(options)}")
    lines = [f"{_letter(i)}: {option}" for i, option in enumerate(options)]
    return "\n".join([*([question] if question else []), *lines]) + "\n"


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _derived_answer(
    conversation: Conversation, image_size: tuple[int, int] | None, rng: np.random.Generator | None
) -> str:
    if conversation.answer_idx is not None:
        return _letter(conversation.answer_idx)
    if conversation.answers:
        counts = Counter(conversation.answers)
        best = [answer for answer, n in counts.items() if n == max(counts.values())]
        return best[0] if rng is None else best[int(rng.integers(len(best)))]
    return _point_answer(conversation, image_size)


def _point_answer(conversation: Conversation, image_size: tuple[int, int] | None) -> str:
    """Source: Molmo v1, 8.5 of the technical notes: the points alone, or in a sentence with their count."""
    assert conversation.points is not None, "asked only where points are given"
    if not conversation.points:
        return point_text.NO_POINTS
    scale = conversation.point_scale
    extent = image_size if scale is None else (scale, scale)
    if extent is None:
        raise OLMoInputError("'points' in pixels need a picture; give one, or 'point_scale' (100 for percent)")
    label = conversation.label.lower() if conversation.label else conversation.messages[0].text
    written = point_text.format(point_text.from_pixels(conversation.points, *extent), label)
    if conversation.style == "point_count":
        return f"Counting the {written} shows a total of {len(conversation.points)}."
    return written

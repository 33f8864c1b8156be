"""Stop strings: ending a row on a text, cutting the text there, and holding text back while streaming.

Tokens do not respect the borders of strings, nor of characters: everything here looks at decoded text. Knows a decode
function, not a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from olmo.exceptions import OLMoInputError

# A window may start inside a character (up to 3 bytes of it are missing) or lose a leading space to the decoder.
_SPARE_TOKENS = 8


class StopStringMatcher:
    """Tells when a row's text holds a stop string, looking only at the newest tokens.

    It has no state: rows may come in any order and beams may be swapped. Made to be handed to a decoding loop as
    `is_stopped`. The cost of a call is that of decoding a window of about as many tokens as the longest stop string has
    bytes; the window grows only where tokens decode to nothing.

    Args:
        stop_strings: texts, each of at least one character.
        decode: token ids to text; ids of special tokens may give no text.

    Raises:
        OLMoInputError: a stop string is empty.
    """

    def __init__(self, stop_strings: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        if isinstance(stop_strings, str):
            stop_strings = (stop_strings,)
        if not all(stop_strings):
            raise OLMoInputError("a stop string is empty: every text holds it. Give at least one character.")
        self.stop_strings = tuple(stop_strings)
        self._decode = decode
        self._n_bytes = max((len(s.encode()) for s in self.stop_strings), default=0)

    def __call__(self, row: int, ids: list[int]) -> bool:
        """Whether a stop string ends within the newest token.

        Args:
            row: not read; part of the callback's form.
            ids: generated ids of the row so far.

        Returns:
            True once the text is complete.
        """
        if not self.stop_strings:
            return False
        text = self._tail(ids)
        return any(s in text for s in self.stop_strings)

    def trim(self, text: str) -> str:
        """The text before the stop string that is complete first; all of it where there is none."""
        spans = [(start + len(s), start) for s in self.stop_strings if (start := text.find(s)) >= 0]
        return text[: min(spans)[1]] if spans else text

    def count_held(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a stop string."""
        longest = max((len(s) for s in self.stop_strings), default=1) - 1
        for n_chars in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-n_chars:]) for s in self.stop_strings):
                return n_chars
        return 0

    def _tail(self, ids: list[int]) -> str:
        """Text of the newest tokens, long enough for any stop string that the newest token completes."""
        n_tokens = self._n_bytes + _SPARE_TOKENS
        while n_tokens < len(ids):
            # Each token gives a byte or more, unless it is a special one; replacement characters stand for less.
            before_newest = self._decode(ids[-n_tokens:-1]).replace("\ufffd", "")
            if len(before_newest.encode()) >= self._n_bytes:
                break
            n_tokens *= 2
        return self._decode(ids[-n_tokens:])


class StopStringFilter:
    """Passes streamed text on, but never any part of a stop string or what follows it.

    Args:
        matcher: holds the stop strings.
    """

    def __init__(self, matcher: StopStringMatcher) -> None:
        self.is_stopped = False
        """Whether a stop string has been met; nothing is passed on any more."""
        self._matcher = matcher
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece of text and return what can safely be shown."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        shown = self._matcher.trim(text)
        if len(shown) < len(text):
            self.is_stopped = True
            self._held = ""
            return shown
        n_held = self._matcher.count_held(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        """The text still held back, at the end of the stream."""
        text, self._held = self._held, ""
        return text

"""Answers in the shapes of the OpenAI chat protocol: whole, in pieces, and ours with points."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from olmo.engine.request import Finish, Piece
from olmo.serve.answering import Running
from olmo.serve.details import told_points, told_sizes
from olmo.serve.protocol import ChatRequest
from olmo.tokenizer import Tokenizer

DONE = "data: [DONE]\n\n"
"""End of a stream."""

_LEAST_LOG_PROB = -9999.0  # what the protocol writes for a token that cannot be


class Reply:
    """One answer on its way to a client.

    Args:
        request: what was asked.
        running: where tokens are counted.
        tokenizer: names the tokens of log-probabilities.
    """

    def __init__(self, request: ChatRequest, running: Running, tokenizer: Tokenizer) -> None:
        self._request, self._running, self._tokenizer = request, running, tokenizer
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}
        n = request.n_choices
        self.texts: list[str] = [""] * n
        self._finishes: list[str | None] = [None] * n
        self._log_probs: list[list[dict[str, Any]]] = [[] for _ in range(n)]
        self._has_begun = [False] * n

    def add(self, piece: Piece) -> None:
        """Take a piece for the whole answer."""
        self.texts[piece.choice] += piece.text
        self._log_probs[piece.choice] += self._told_log_probs(piece)
        if piece.finish is not None:
            self._finishes[piece.choice] = _reason(piece.finish)

    def completion(self) -> dict[str, Any]:
        """The whole answer."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "finish_reason": finish,
                "logprobs": {"content": log_probs, "refusal": None} if self._request.logprobs else None,
            }
            for i, (text, finish, log_probs) in enumerate(zip(self.texts, self._finishes, self._log_probs, strict=True))
        ]
        whole = {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage()}
        return {**whole, "olmo": self._details()} if self._request.include_details else whole

    def points(self) -> dict[str, Any]:
        """The first answer's text and its points, in percent and, with a picture, in pixels of the first one."""
        sizes = self._running.image_sizes
        whole = {
            **self._head,
            "object": "points",
            "text": self.texts[0],
            "finish_reason": self._finishes[0],
            "image_sizes": told_sizes(sizes),
            "points": told_points(self.texts[0], sizes),
            "usage": self.usage(),
        }
        return {**whole, "olmo": self._details()} if self._request.include_details else whole

    def _details(self) -> dict[str, Any]:
        """What `include_details` adds."""
        sizes, note = self._running.image_sizes, self._running.selection
        return {
            "image_sizes": told_sizes(sizes),
            "points": told_points(self.texts[0], sizes, with_places=True),
            "selection": None if note is None else note.told(),
        }

    def usage(self) -> dict[str, int]:
        """Tokens of prompt and answers."""
        prompt, new = self._running.n_prompt_tokens, self._running.n_new_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def events(self, piece: Piece) -> str:
        """What a stream sends for a piece; may be empty."""
        sent = ""
        self.texts[piece.choice] += piece.text
        log_probs = self._told_log_probs(piece)
        if not self._has_begun[piece.choice]:
            self._has_begun[piece.choice] = True
            sent += self._event(piece.choice, {"role": "assistant", "content": ""})
        if piece.text or log_probs:
            sent += self._event(piece.choice, {"content": piece.text}, log_probs)
        if piece.finish is not None:
            sent += self._event(piece.choice, {}, finish=_reason(piece.finish))
        return sent

    def last_events(self) -> str:
        """What ends a stream."""
        options = self._request.stream_options
        head = {**self._head, "object": "chat.completion.chunk", "choices": []}
        sent = _line({**head, "olmo": self._details()}) if self._request.include_details else ""
        if options is not None and options.include_usage:
            sent += _line({**head, "usage": self.usage()})
        return sent + DONE

    def _event(
        self,
        choice: int,
        delta: dict[str, Any],
        log_probs: list[dict[str, Any]] | None = None,
        finish: str | None = None,
    ) -> str:
        told = {"content": log_probs, "refusal": None} if log_probs else None
        entry = {"index": choice, "delta": delta, "logprobs": told, "finish_reason": finish}
        return _line({**self._head, "object": "chat.completion.chunk", "choices": [entry]})

    def _told_log_probs(self, piece: Piece) -> list[dict[str, Any]]:
        """The token of a piece with its log-probability; not the one that only ends an answer."""
        if not self._request.logprobs or piece.token_id is None or piece.log_prob is None:
            return []
        if piece.token_id == self._tokenizer.eos_token_id:
            return []
        top = [self._token(token_id, log_prob) for token_id, log_prob in piece.top_log_probs]
        return [{**self._token(piece.token_id, piece.log_prob), "top_logprobs": top}]

    def _token(self, token_id: int, log_prob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id, skip_special_tokens=False)
        return {
            "token": data.decode("utf-8", errors="replace"),
            "logprob": max(log_prob, _LEAST_LOG_PROB),
            "bytes": list(data),
        }


def error_events(body: dict[str, Any]) -> str:
    """What a stream sends where it cannot go on."""
    return _line(body) + DONE


def _reason(finish: Finish) -> str:
    return "length" if finish is Finish.length else "stop"


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"

"""Tokens of an example as HTML: what is read, what is learned and how much it weighs, and who sees whom.

Everything that comes from an example is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from olmo.preprocessing.preprocessor import IGNORE_LABEL, SHARED_SEGMENT
from olmo.tokenizer import Tokenizer

N_SEGMENT_COLOURS = 6
_SHOWN_SPACES = str.maketrans({"\n": "⏎\n", "\t": "⇥\t"})


def tokens_html(inputs: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    """The sequence, one block for each stretch of tokens of one segment.

    Args:
        inputs: one example of a preprocessor, unbatched, with labels.
        tokenizer: tokenizer of the model.
    """
    ids = inputs["input_ids"].tolist()
    segments = inputs["subsegment_ids"].tolist() if "subsegment_ids" in inputs else [None] * len(ids)
    blocks = []
    start = 0
    for segment, members in groupby(segments):
        stop = start + sum(1 for _ in members)
        label = "" if segment is None else f'<span class="segment-name">{_segment_name(segment)}</span>'
        colour = "" if segment is None else f" s{segment % N_SEGMENT_COLOURS}"
        blocks.append(f'<div class="tokens{colour}">{label}{_block(inputs, ids, start, stop, tokenizer)}</div>')
        start = stop
    return "\n".join(blocks)


def learned_texts(inputs: Mapping[str, Any], tokenizer: Tokenizer) -> list[str]:
    """The texts that are learned, one for each stretch of labels, in order; special tokens are left out."""
    runs = groupby(inputs["labels"].tolist(), key=lambda label: label != IGNORE_LABEL)
    return [tokenizer.decode(labels).strip() for is_learned, labels in runs if is_learned]


def _block(inputs: Mapping[str, Any], ids: list[int], start: int, stop: int, tokenizer: Tokenizer) -> str:
    weights = np.where(inputs["labels"] != IGNORE_LABEL, inputs["loss_masks"], 0.0)
    positions = _positions(inputs)
    picture = set(range(tokenizer.im_start_id, tokenizer.im_col_id + 1))
    largest = max(float(weights.max()), 1e-9)
    parts = []
    for is_picture, run in groupby(range(start, stop), key=lambda i: ids[i] in picture):
        members = list(run)
        if is_picture:
            parts.append(f'<span class="picture" title="{_range(members)}">{len(members)} picture tokens</span>')
            continue
        for i, text, is_special in _texts(ids, members, tokenizer):
            weight = float(weights[i])
            title = f"token {i}, position {positions[i]}, id {ids[i]}, " + (
                f"learned with weight {weight:.3g}" if weight > 0 else "read only"
            )
            classes = " ".join(c for c, on in (("t", True), ("learned", weight > 0), ("special", is_special)) if on)
            style = f' style="--w:{weight / largest:.2f}"' if weight > 0 else ""
            parts.append(f'<span class="{classes}"{style} title="{title}">{html.escape(text)}</span>')
    return "".join(parts)


def _texts(ids: list[int], members: list[int], tokenizer: Tokenizer) -> Iterator[tuple[int, str, bool]]:
    """(index, text to show, is special) of tokens; a part of a character shows as its bytes."""
    for i in members:
        data = tokenizer.token_bytes(ids[i], skip_special_tokens=False)
        is_special = not tokenizer.token_bytes(ids[i])
        try:
            text = data.decode("utf-8").translate(_SHOWN_SPACES)
        except UnicodeDecodeError:
            text = f"[{data.hex(' ')}]"
        yield i, text or f"[id {ids[i]}]", is_special


def _segment_name(segment: int) -> str:
    return "shared by all conversations" if segment == SHARED_SEGMENT else f"conversation {segment}"


def _positions(inputs: Mapping[str, Any]) -> list[int]:
    if "position_ids" in inputs:
        return [int(p) for p in inputs["position_ids"]]
    return list(range(len(inputs["input_ids"])))


def _range(members: list[int]) -> str:
    return f"tokens {members[0]} to {members[-1]}"

"""`PrefixCache`: keys and values of the last prompt, for the next one that begins alike, as the turns of a chat do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from olmo.models.text_inputs import TextInputs
from olmo.nn.kv_cache import KVCache


class PrefixCache:
    """What a model remembers of one prompt.

    A model uses it where it has one (`model.prefix_cache = PrefixCache()`), in `generate` and `stream` of a single row.
    Where the next prompt has the same pictures and begins with the same tokens, only the rest is read; pictures are not
    encoded again. Keys and values are those of the model's present weights: call `clear` after changing them; training
    does.

    Attributes:
        n_reused: tokens that did not have to be read so far.
    """

    def __init__(self) -> None:
        self.n_reused = 0
        self.clear()

    def clear(self) -> None:
        """Forget the prompt."""
        self._ids: list[int] = []
        self._pictures: dict[str, Any] = {}
        self._cache: KVCache | None = None

    def take(
        self, text: TextInputs, pictures: Mapping[str, Any], n_new: int, patch_id: int
    ) -> tuple[KVCache, int] | None:
        """The cache of the longest common beginning, and its length; None where it cannot be used.

        Args:
            text: a prompt.
            pictures: what goes with it, as `generate` was given it.
            n_new: tokens to make room for behind the prompt.
            patch_id: the token that stands for a picture feature; all of them have to lie in the beginning.
        """
        if self._cache is None or not is_plain_row(text) or not _are_equal(self._pictures, pictures):
            return None
        ids = text.input_ids[0].tolist()
        n_same = next((i for i, (a, b) in enumerate(zip(ids, self._ids, strict=False)) if a != b), None)
        n_same = min(len(ids) - 1, len(self._ids)) if n_same is None else min(n_same, len(ids) - 1)
        if n_same < 1 or patch_id in ids[n_same:] or _last_place(pictures) >= n_same:
            return None
        cache, self._cache = self._cache, None  # it is written to from now on
        cache.take_back(cache.length - n_same)
        cache.reserve(len(ids) + n_new)
        self.n_reused += n_same
        return cache, n_same

    def keep(self, text: TextInputs, pictures: Mapping[str, Any], cache: KVCache) -> None:
        """Remember a prompt that was read. What is written behind it does no harm."""
        if is_plain_row(text):
            self._ids, self._pictures, self._cache = text.input_ids[0].tolist(), dict(pictures), cache


def is_plain_row(text: TextInputs) -> bool:
    """Whether a batch is a single row without padding, segments or positions of its own."""
    if len(text.input_ids) != 1 or text.segment_ids is not None:
        return False
    is_whole = text.attention_mask is None or bool(text.attention_mask.all())
    counted = torch.arange(text.input_ids.shape[1], device=text.position_ids.device)
    return is_whole and bool((text.position_ids[0] == counted).all())


def _last_place(pictures: Mapping[str, Any]) -> int:
    """Last position of the prompt that is said to take a picture feature; -1 where none is said."""
    places = pictures.get("image_input_idx")
    return -1 if places is None or not places.numel() else int(places.max())


def _are_equal(kept: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    if kept.keys() != given.keys():
        return False
    return all(
        torch.equal(value, given[name]) if isinstance(value, torch.Tensor) else value == given[name]
        for name, value in kept.items()
    )

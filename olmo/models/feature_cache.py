"""Another question about a picture need not encode it again.

`FeatureCache` keeps picture features from call to call; `encoded_once` encodes equal crops of one call together.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from olmo.models.picture_inputs import PictureInputs

MAX_BYTES = 256 * 1024**2
"""What is kept by default: 1,800 pictures of molmo-nano, or three of Molmo-7B with 13 crops in bfloat16."""


class FeatureCache:
    """Features by the pixels they were made of, up to a number of bytes; what was not asked for longest goes first.

    A model uses it where it has one (`model.feature_cache = FeatureCache()`), in inference alone. The features are
    those of the model's present weights: call `clear` after changing them; training does.

    Args:
        max_bytes: of the features that are kept, on the device of the model.

    Attributes:
        n_found: crops whose features were there.
        n_made: crops that were encoded.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.n_bytes = max_bytes, 0
        self.n_found = self.n_made = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, pictures: PictureInputs, encode: Callable[[PictureInputs], Tensor]) -> Tensor:
        """Features `[M, entries, D]` of M crops; `encode` is called with those that are not there, if any."""
        keys = crop_keys(pictures)
        found = {key: self._kept[key] for key in keys if key in self._kept}
        for key in found:
            self._kept.move_to_end(key)
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in found}
        self.n_found, self.n_made = self.n_found + len(keys) - len(first), self.n_made + len(first)
        if first:
            is_new = torch.zeros(len(keys), dtype=torch.bool, device=pictures.images.device)
            is_new[list(first.values())] = True
            new = sorted(first, key=lambda key: first[key])
            made = encode(pictures.some(is_new))
            found |= dict(zip(new, made.unbind(), strict=True))
            if len(new) == len(keys):
                self._keep(new, made)
                return made
            self._keep(new, made)
        return torch.stack([found[key] for key in keys])

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.n_bytes = 0

    def _keep(self, keys: list[bytes], features: Tensor) -> None:
        for key, feature in zip(keys, features.unbind(), strict=True):
            self._kept[key] = feature.clone()  # not a view of the whole batch
            self.n_bytes += feature.nbytes
        while self.n_bytes > self.max_bytes and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self.n_bytes -= oldest.nbytes


def encoded_once(pictures: PictureInputs, encode: Callable[[PictureInputs], Tensor]) -> Tensor:
    """Features `[M, entries, D]` of M crops, of which equal ones are encoded together; gradients add up in them."""
    keys = crop_keys(pictures)
    first: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    if len(first) == len(keys):
        return encode(pictures)
    device = pictures.images.device
    is_first = torch.zeros(len(keys), dtype=torch.bool, device=device)
    is_first[list(first.values())] = True
    place = {key: i for i, key in enumerate(first)}
    return encode(pictures.some(is_first))[torch.tensor([place[key] for key in keys], device=device)]


def crop_keys(pictures: PictureInputs) -> list[bytes]:
    """A key for each crop: equal where pixels, masks, facts and the number of entries are."""
    given = [part for part in (pictures.images, pictures.image_masks, pictures.facts) if part is not None]
    parts = [part.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy() for part in given]
    digests = [[hashlib.blake2b(row, digest_size=16).digest() for row in part] for part in parts]
    n_entries = pictures.token_index.shape[1].to_bytes(4, "little")
    return [b"".join((*of_crop, n_entries)) for of_crop in zip(*digests, strict=True)]


class Remembering(Protocol):
    """What `features_kept` asks of a model."""

    feature_cache: FeatureCache | None


@contextmanager
def features_kept(model: Remembering, max_bytes: int = MAX_BYTES) -> Iterator[None]:
    """Give a model a cache until the block ends, where it has none of its own."""
    if model.feature_cache is not None:
        yield
        return
    model.feature_cache = FeatureCache(max_bytes)
    try:
        yield
    finally:
        model.feature_cache = None

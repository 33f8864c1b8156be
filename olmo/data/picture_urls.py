"""The URLs of pictures that a dataset or a JSONL file names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olmo.data.download import Wanted
from olmo.data.field_maps import FieldMap
from olmo.data.pictures import is_url
from olmo.data.written_rows import read_row
from olmo.exceptions import OLMoInputError

_BATCH = 10_000


def urls_of_dataset(rows: Any, fields: FieldMap, limit: int | None = None) -> Iterator[Wanted]:
    """URLs in the picture's column of a dataset, with the hashes it gives.

    Args:
        rows: the dataset, as `olmo.data.hub_dataset.load_rows` gives it.
        fields: what its columns mean.
        limit: rows to look at, at most.

    Raises:
        OLMoInputError: it has no such column.
    """
    if fields.image is None or fields.image not in rows.column_names:
        raise OLMoInputError(f"the dataset has no column {fields.image!r}; it has {', '.join(rows.column_names)}")
    hashes = fields.image_hash if fields.image_hash in rows.column_names else None
    some = rows if limit is None else rows.select(range(min(limit, len(rows))))
    columns = [fields.image, *([hashes] if hashes else [])]
    for batch in some.select_columns(columns).iter(batch_size=_BATCH):
        digests = batch[hashes] if hashes else [None] * len(batch[fields.image])
        for url, digest in zip(batch[fields.image], digests, strict=True):
            if is_url(url):
                yield Wanted(url, digest or None)


def urls_of_jsonl(path: str | Path) -> Iterator[Wanted]:
    """URLs under `image`, `images` and in the messages of a JSONL file; `sha256` beside `image` is its hash.

    Raises:
        OLMoInputError: no such file, or a row is not JSON; the message says which.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield from _urls_of_row(read_row(line))
                    except OLMoInputError as error:
                        raise OLMoInputError(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise OLMoInputError(f"cannot read {path}: {error.strerror}") from None


def _urls_of_row(row: Mapping[str, Any]) -> Iterator[Wanted]:
    if is_url(row.get("image")):
        digest = row.get("sha256")
        yield Wanted(row["image"], digest if isinstance(digest, str) else None)
    for value in row.get("images") or []:
        if is_url(value):
            yield Wanted(value)
    for part in _parts(row.get("messages")):
        for key in ("image", "path"):
            if is_url(part.get(key)):
                yield Wanted(part[key])


def _parts(messages: Any) -> Iterator[Mapping[str, Any]]:
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, Mapping) else None
        yield from (part for part in content or [] if isinstance(part, Mapping)) if isinstance(content, list) else ()

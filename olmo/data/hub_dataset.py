"""Rows of a Hugging Face dataset as examples: from files here, from the hub's cache, or from the hub.

Needs the package `datasets` (extra `data`). Pictures and videos are handed on as they are stored, not decoded here.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from olmo.data.field_maps import FieldMap
from olmo.data.field_values import conversation_of, weight_of
from olmo.data.pictures import downloaded_file, is_url, resolve_picture
from olmo.data.row_source import RowSource
from olmo.data.videos import find_subtitles, find_video
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".arrow": "arrow"}
_BATCH = 10_000


class _Verdict(enum.Enum):
    """What becomes of the rows of a picture."""

    wanted = enum.auto()
    excluded = enum.auto()
    missing = enum.auto()


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    """Which rows are taken, and how they are put together.

    Attributes:
        group_size: most rows of one picture that become one example; None: as the field map says.
        where: rows to take, by the value of a column.
        exclude: values of the picture's (or video's) column to leave out.
        category: goes into the metadata of each row, for a part of a dataset; None for none.
    """

    group_size: int | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()
    category: str | None = None


class HubSource(RowSource):
    """Examples of a Hugging Face dataset. Rows whose picture was not downloaded are left out; `n_missing` counts them.

    Args:
        rows: the dataset, as `load_rows` gives it.
        fields: what its columns mean.
        name: what metrics call it.
        root: folder that relative paths of pictures, videos and subtitles start from.
        downloads: folder that `molmo data download` filled.
        choice: which rows, and how they are put together.

    Raises:
        OLMoConfigurationError: a column that is not there.
        OLMoInputError: no rows are left.
    """

    def __init__(
        self,
        rows: Any,
        fields: FieldMap,
        name: str,
        root: Path,
        downloads: Path | None = None,
        choice: RowChoice | None = None,
    ) -> None:
        self.name, self.fields, self.root, self.downloads = name, fields, root, downloads
        choice = choice or RowChoice()
        self._lacking = [c for c in fields.may_lack if c not in rows.column_names]
        needed = [c for c in fields.columns if c not in self._lacking]
        _check_columns(rows.column_names, (*needed, *choice.where), name)
        self._keep = tuple(c for c in fields.keep if c in rows.column_names)
        self._category = {} if choice.category is None else {"category": choice.category}
        self._rows = _undecoded(rows.select_columns(sorted({*needed, *choice.where, *self._keep})))
        shown = (fields.image, fields.images, fields.video)
        pictures = [c for c in shown if c is not None and c not in self._keep]
        self._texts = self._rows.remove_columns([c for c in pictures if c != fields.group_by])
        self.n_missing = 0
        group_size = fields.group_size if choice.group_size is None else choice.group_size
        self._members, self._starts = self._index(choice, group_size)
        if len(self) == 0:
            raise OLMoInputError(self._nothing_left(len(rows), choice))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        members = self._members[self._starts[row] : self._starts[row + 1]].tolist()
        # The rows of a group show the same picture, so it is read once.
        found = [self._rows[members[0]], *_unzipped(self._texts[members[1:]] if len(members) > 1 else {})]
        rows = [{**dict.fromkeys(self._lacking), **values} for values in found]
        conversations = [
            conversation
            for member, values in zip(members, rows, strict=True)
            for fields in self.fields.conversations
            if (conversation := conversation_of(fields, values, member, epoch)) is not None
        ]
        if not conversations:
            raise OLMoInputError("the row has no text to learn from")
        example = conversations[0] if len(conversations) == 1 else {"message_list": conversations}
        weight = weight_of(self.fields, rows[0])
        kept = {column: [values[column] for values in rows] for column in self._keep}
        return {
            **self._pictures(rows[0]),
            **example,
            **({} if weight is None else {"weight": weight}),
            "metadata": {
                **self._category,
                **{c: values[0] if len(members) == 1 else values for c, values in kept.items()},
            },
        }

    def _pictures(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.fields.video is not None:
            return self._video(values, self.fields.video)
        if self.fields.images is not None:
            given = values[self.fields.images] or []
            return {"images": [resolve_picture(v, self.root, self.downloads) for v in given]}
        if self.fields.image is None:
            return {}
        if values[self.fields.image] is None:
            raise OLMoInputError(f"column {self.fields.image!r} is null, so the row has no picture")
        return {"image": resolve_picture(values[self.fields.image], self.root, self.downloads)}

    def _video(self, values: Mapping[str, Any], column: str) -> dict[str, Any]:
        fields = self.fields
        if values[column] is None:
            raise OLMoInputError(f"column {column!r} is null, so the row has no video")
        video, is_cut = find_video(values[column], self.root, fields.video_folders)
        shown = {"video": video}
        if fields.subtitles is not None:
            shown["subtitles"] = find_subtitles(values[fields.subtitles], self.root, fields.subtitle_folders)
        for key, name in (("start_s", fields.start_s), ("end_s", fields.end_s)):
            if name is not None and not is_cut:
                shown[key] = values[name]
        return {key: value for key, value in shown.items() if value is not None}

    def _index(self, choice: RowChoice, group_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order of examples, and where each example begins among them, two int64 arrays."""
        groups: dict[Any, list[int]] = {}
        open_groups: dict[Any, Any] = {}
        for number, key in self._wanted(choice, group_size > 1):
            if group_size == 1:
                groups[number] = [number]
                continue
            current = open_groups.get(key)
            if current is None or len(groups[current]) == group_size:
                open_groups[key] = current = number
                groups[current] = []
            groups[current].append(number)
        starts = np.cumsum([0, *(len(members) for members in groups.values())], dtype=np.int64)
        return np.array([n for members in groups.values() for n in members], dtype=np.int64), starts

    def _wanted(self, choice: RowChoice, is_grouped: bool) -> Iterator[tuple[int, Any]]:
        """Row number and group key of the rows to take. Reads no more columns than the question needs."""
        image, group_by = self.fields.image or self.fields.video, self.fields.group_by
        # The feature of a record is a plain dict.
        kind = None if image is None else getattr(self._rows.features[image], "dtype", None)
        looks_at_image = kind in ("string", "large_string")
        columns = {*choice.where, image if looks_at_image else None, group_by if is_grouped else None} - {None}
        if not columns:
            yield from ((number, number) for number in range(len(self._rows)))
            return
        verdicts: dict[str | None, _Verdict] = {}
        number = 0
        for batch in self._rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=_BATCH):
            values = batch.to_pydict()
            keys = values[group_by] if is_grouped and group_by is not None else range(number, number + len(batch))
            for i, key in enumerate(keys):
                if all(str(values[column][i]) == wanted for column, wanted in choice.where.items()) and (
                    not looks_at_image or self._look_at(values[image][i], choice.exclude, verdicts)
                ):
                    yield number + i, key
            number += len(batch)

    def _look_at(self, picture: str | None, exclude: frozenset[str], verdicts: dict[str | None, _Verdict]) -> bool:
        """Whether a row's picture is to be used; counts those that were not downloaded."""
        if picture not in verdicts:
            verdicts[picture] = self._verdict(picture, exclude)
        self.n_missing += verdicts[picture] is _Verdict.missing
        return verdicts[picture] is _Verdict.wanted

    def _verdict(self, picture: str | None, exclude: frozenset[str]) -> _Verdict:
        if picture in exclude:
            return _Verdict.excluded
        if not is_url(picture):
            return _Verdict.wanted  # a broken row is for its reader to complain of
        is_there = self.downloads is not None and downloaded_file(str(picture), self.downloads).is_file()
        return _Verdict.wanted if is_there else _Verdict.missing

    def _nothing_left(self, n_rows: int, choice: RowChoice) -> str:
        if self.n_missing:
            where = "no image_root is given" if self.downloads is None else f"looked in {self.downloads}"
            return (
                f"{self.name}: none of the pictures of its {n_rows} rows is on this machine ({where}); fetch them with "
                "`molmo data download` and give their folder as image_root"
            )
        return f"{self.name}: none of its {n_rows} rows is left; check where ({dict(choice.where)}) and exclude"


def load_rows(path: str, subset: str | None = None, split: str = "train") -> Any:
    """A split of a dataset, as an object of the package `datasets`.

    Args:
        path: file (.parquet, .jsonl, .json, .csv, .arrow), folder (of such files, or one that `save_to_disk` wrote) or
            hub id.
        subset: configuration, where there are several.
        split: name of the split; a single file is read whole.

    Raises:
        OLMoConfigurationError: the package is missing.
        OLMoInputError: no such dataset or split, or it cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise OLMoConfigurationError(
            "hub sources need the package datasets; install it with `pip install 'molmo[data]'`"
        ) from None
    local = Path(path).expanduser()
    try:
        if local.is_file():
            builder = _BUILDERS.get(local.suffix.lower())
            if builder is None:
                raise OLMoInputError(f"{local} has none of the suffixes {', '.join(_BUILDERS)}")
            return datasets.load_dataset(builder, data_files=str(local), split="train")
        if (local / "dataset_dict.json").is_file():
            splits = datasets.load_from_disk(str(local))
            if split not in splits:
                raise OLMoInputError(f"{local} has no split {split!r}; it has {', '.join(splits)}")
            return splits[split]
        if (local / "state.json").is_file():
            return datasets.load_from_disk(str(local))
        if not local.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
            raise OLMoInputError(f"no such file or folder: {local} (and it is not a hub id of the form owner/name)")
        return datasets.load_dataset(str(local) if local.is_dir() else path, subset, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise OLMoInputError(f"cannot read split {split!r} of the dataset {path}: {reason:.400}") from error


def _unzipped(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows from the columns of a batch."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _undecoded(rows: Any) -> Any:
    """The dataset with its pictures and videos as stored bytes, so that they are decoded with this package's checks."""
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
        elif isinstance(feature, datasets.Video):
            rows = rows.cast_column(column, datasets.Video(decode=False))
    return rows


def _check_columns(there: list[str], wanted: tuple[str, ...], name: str) -> None:
    for column in wanted:
        if column not in there:
            close = difflib.get_close_matches(column, there, n=1)
            hint = f"did you mean {close[0]!r}? It" if close else "it"
            raise OLMoConfigurationError(f"{name} has no column {column!r}; {hint} has {', '.join(there)}")

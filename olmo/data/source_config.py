"""`SourceConfig`: one source of examples, as a recipe writes it down."""

from __future__ import annotations

from dataclasses import dataclass, field

from olmo.config import BaseConfig, ConfigEnum
from olmo.data.field_maps import COLUMN_ROLES, FIELD_MAPS
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.scenes_config import ScenesConfig
from olmo.exceptions import OLMoConfigurationError


class SourceKind(ConfigEnum):
    """Where examples come from."""

    jsonl = "jsonl"
    folder = "folder"
    hub = "hub"
    scenes = "scenes"
    moving_scenes = "moving_scenes"


@dataclass(kw_only=True)
class SourceConfig(BaseConfig):
    """One source of examples.

    `path` and `image_root` may be relative: to the recipe's folder, or where nothing is there, to the working
    directory. `~` is the home folder.
    """

    kind: SourceKind
    """`jsonl`: a file with one example a line; `folder`: pictures or clips with a .txt or .json beside each; `hub`: a
    Hugging Face dataset, from files or from the hub; `scenes`: pictures drawn on the spot; `moving_scenes`: clips drawn
    on the spot."""

    path: str | None = None
    """File or folder; for `hub` also a hub id such as `allenai/pixmo-count`, by default that of `fields`. Not used by
    what is drawn."""

    name: str | None = None
    """What metrics and messages call this source; by default the file's, folder's or field map's name."""

    split: str = "train"
    """Split of a `hub` dataset, or of `scenes` and `moving_scenes` (train or val)."""

    subset: str | None = None
    """Configuration of a `hub` dataset that has several; by default that of `fields`, or all of them together."""

    fields: str | None = None
    """Field map of a `hub` dataset: which columns mean what. One of the names in `olmo.data.field_maps.FIELD_MAPS`."""

    columns: dict[str, str] = field(default_factory=dict)
    """Columns of a `hub` dataset that has no field map, by what they hold: `{image: img, question: q, answer: a}`."""

    image_root: str | None = None
    """Folder that relative paths of pictures, videos and subtitles start from (by default that of `path`), or where
    `molmo data download` put the pictures of a dataset that names them by URL."""

    style: str | None = None
    """Style of the examples that name none; for `fields` it takes the place of the field map's."""

    weight: float = 1.0
    """Factor on the loss weight of every example, 0 or more."""

    point_scale: float | None = None
    """Coordinate of the far edge in the points of a `hub` dataset with `columns` (100 for percent); by default points
    are in pixels."""

    where: dict[str, str] = field(default_factory=dict)
    """Rows of a `hub` dataset to take, by the value of a column: `{collection_method: counting}`."""

    exclude: str | None = None
    """Text file with pictures to leave out of a `hub` dataset, one value of the picture's column (a URL, as a rule) a
    line: those of a test set, say."""

    skip: int = 0
    """Rows left out at the start, so that one file can serve for validation and for training."""

    limit: int | None = None
    """Rows used at most, counted after `skip`."""

    group_size: int | None = None
    """Rows of a `hub` dataset about the same picture that become conversations of one example, at most; 1 keeps them
    apart. By default as the field map says."""

    rate_size: int | None = None
    """Number of examples to reckon with when rates are drawn from sizes; by default the number of rows."""

    rate: float | None = None
    """Share within its group, relative to the other sources, in place of the square root of the size."""

    scenes: ScenesConfig | None = None
    """How `scenes` are drawn; by default as `ScenesConfig` says."""

    moving_scenes: MovingScenesConfig | None = None
    """How `moving_scenes` are drawn; by default as `MovingScenesConfig` says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (
            ("skip", 0),
            ("limit", 1),
            ("group_size", 1),
            ("rate_size", 1),
            ("weight", 0),
            ("rate", 0),
            ("point_scale", 0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise OLMoConfigurationError(f"must be {low} or more, got {value}", name)
        if self.fields is not None and self.fields not in FIELD_MAPS:
            raise OLMoConfigurationError(f"{self.fields!r} is not one of {', '.join(sorted(FIELD_MAPS))}", "fields")
        for role in self.columns:
            if role not in COLUMN_ROLES:
                raise OLMoConfigurationError(f"{role!r} is not one of {', '.join(COLUMN_ROLES)}", "columns")
        self._check_kind()

    def _check_kind(self) -> None:
        """Refuse fields that this kind would ignore, because whoever wrote them expects an effect."""
        of_kind = {
            "scenes": SourceKind.scenes,
            "moving_scenes": SourceKind.moving_scenes,
            "fields": SourceKind.hub,
            "columns": SourceKind.hub,
            "subset": SourceKind.hub,
            "group_size": SourceKind.hub,
            "point_scale": SourceKind.hub,
            "where": SourceKind.hub,
            "exclude": SourceKind.hub,
        }
        for name, kind in of_kind.items():
            if getattr(self, name) not in (None, {}) and self.kind is not kind:
                raise OLMoConfigurationError(f"goes with kind: {kind.value}, and this is {self.kind.value}", name)
        if self.kind is SourceKind.hub:
            if bool(self.fields) == bool(self.columns):
                raise OLMoConfigurationError(
                    f"a hub source takes either 'fields' (one of {', '.join(sorted(FIELD_MAPS))}) or 'columns', such "
                    "as {image: img, question: q, answer: a}"
                )
            if self.fields is None:
                self._check_columns()
            elif self.point_scale is not None:
                raise OLMoConfigurationError("goes with 'columns'; the field map knows its own", "point_scale")
            elif self.style is not None and len(FIELD_MAPS[self.fields].conversations) > 1:
                raise OLMoConfigurationError(
                    f"{self.fields} has conversations of several styles; leave it out", "style"
                )
        elif self.kind in (SourceKind.scenes, SourceKind.moving_scenes):
            given = [n for n in ("path", "image_root", "style") if getattr(self, n) is not None]
            if given:
                raise OLMoConfigurationError("scenes are drawn, not read; leave it out", given[0])
            if self.split not in ("train", "val"):
                raise OLMoConfigurationError(f"must be train or val for what is drawn, got {self.split!r}", "split")
        elif self.path is None:
            raise OLMoConfigurationError(f"is required with kind: {self.kind.value}", "path")

    def _check_columns(self) -> None:
        if self.path is None:
            raise OLMoConfigurationError("is required with 'columns': a file, a folder or a hub id", "path")
        if not set(self.columns) & {"messages", "question", "answer", "label", "answers"}:
            raise OLMoConfigurationError(
                "names no column with text; give question and answer, messages, or label and points", "columns"
            )
        if len(shown := [role for role in ("image", "images", "video") if role in self.columns]) > 1:
            raise OLMoConfigurationError(f"give {shown[0]} or {shown[1]}, not both", "columns")
        if "video" not in self.columns and (of_video := {"start_s", "end_s", "subtitles"} & set(self.columns)):
            raise OLMoConfigurationError(f"{min(of_video)} goes with video", "columns")
        if (self.group_size or 1) > 1:
            raise OLMoConfigurationError("goes with 'fields'; with 'columns' each row is an example", "group_size")

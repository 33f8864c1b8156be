"""`Source`, what a mixture and a loader need of a source of examples, and `open_source`, which makes one from a recipe.

A source never draws at random from outside: the example of a row is a function of the row and of the number of passes
made over the source. That is what lets a run resume from a step number alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from olmo.data.field_maps import FIELD_MAPS, own_field_map
from olmo.data.folder import FolderSource
from olmo.data.hub_dataset import HubSource, RowChoice, load_rows
from olmo.data.jsonl import JsonlSource
from olmo.data.row_source import JoinedSource, PartialSource, RowSource, WeightedSource
from olmo.data.scenes.moving.dataset import MovingScenesSource
from olmo.data.scenes_source import ScenesSource
from olmo.data.source_config import SourceConfig, SourceKind
from olmo.exceptions import OLMoInputError


class Source(Protocol):
    """Raw examples by row. Safe to read from several threads and processes, and to pickle."""

    name: str
    """What metrics and messages call this source."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The example of `row` in the first pass; same as `at(row, 0)`."""

    def at(self, row: int, epoch: int = 0) -> dict[str, Any]:
        """The example of `row`, as it is in pass `epoch` over the source.

        Returns:
            An example as `olmo.preprocessing.messages.parse_example` takes it, with `metadata` that holds at least
            `{"source": name, "row": row}`.

        Raises:
            OLMoInputError: the row is broken; the message says where it is and what to do.
            IndexError: no such row.
        """

    def place(self, row: int) -> str:
        """Where a person finds the row: `train.jsonl:17`, or a name and row."""


def open_source(config: SourceConfig, base_dir: str | Path | None = None) -> Source:
    """The source that a recipe describes.

    Args:
        config: which source.
        base_dir: folder that relative paths start from, as a rule that of the recipe; None is the working directory.

    Raises:
        OLMoInputError: it is missing, empty or cannot be read.
        OLMoConfigurationError: an optional package is missing, or a column that the configuration names.
    """
    source = _open(config, Path(base_dir or "."))
    if config.skip or (config.limit is not None and config.limit < len(source)):
        stop = len(source) if config.limit is None else min(len(source), config.skip + config.limit)
        if config.skip >= stop:
            raise OLMoInputError(f"{source.name} has {len(source)} rows, so skip={config.skip} leaves none")
        source = PartialSource(source, config.skip, stop)
    return source if config.weight == 1 else WeightedSource(source, config.weight)


def _open(config: SourceConfig, base_dir: Path) -> RowSource:
    if config.kind is SourceKind.scenes:
        return ScenesSource(config.scenes, config.split, config.name or "scenes")
    if config.kind is SourceKind.moving_scenes:
        return MovingScenesSource(config.moving_scenes, config.split, config.name or "moving_scenes")
    image_root = None if config.image_root is None else _folder(config.image_root, base_dir)
    if config.kind is SourceKind.hub:
        return _open_hub(config, base_dir, image_root)
    assert config.path is not None, "SourceConfig asks for it"
    path = find_path(config.path, base_dir)
    if config.kind is SourceKind.folder:
        return FolderSource(path, config.name, config.style)
    return JsonlSource(path, config.name, image_root, config.style)


def _open_hub(config: SourceConfig, base_dir: Path, image_root: Path | None) -> RowSource:
    if config.fields is None:
        fields = own_field_map(config.columns, config.style, config.point_scale)
    else:
        fields = FIELD_MAPS[config.fields]
        if config.style is not None:
            fields = replace(fields, conversations=(replace(fields.conversations[0], style=config.style),))
    path = config.path or fields.repository
    assert path is not None, "SourceConfig asks for it where the field map has none"
    local = find_path(path, base_dir)
    root = image_root or (local.parent if local.is_file() else local).absolute()
    exclude = frozenset() if config.exclude is None else _lines(find_path(config.exclude, base_dir))
    name = config.name or config.fields or Path(path).stem

    def part(subset: str | None, category: str | None) -> HubSource:
        of_part = fields if category is None else replace(fields, video_folders=fields.subsets[category])
        return HubSource(
            load_rows(_path_of(path, local, category), subset, config.split),
            of_part,
            name if category is None else f"{name}/{category}",
            root,
            image_root,
            RowChoice(group_size=config.group_size, where=config.where, exclude=exclude, category=category),
        )

    if not fields.subsets:
        return part(config.subset or fields.subset, None)
    if config.subset is not None and config.subset not in fields.subsets:
        raise OLMoInputError(f"{name} has no subset {config.subset!r}; it has {', '.join(fields.subsets)}")
    wanted = list(fields.subsets) if config.subset is None else [config.subset]
    if local.exists():  # lists of some parts alone are fine
        wanted = [s for s in wanted if config.subset or _list_of(local, s) is not None]
        if not wanted:
            raise OLMoInputError(f"{local} holds no list of {name}, such as json/{next(iter(fields.subsets))}.json")
    return JoinedSource([part(subset, subset) for subset in wanted], name)


def _path_of(path: str, local: Path, category: str | None) -> str:
    """What to load: the list of a part in a folder, a file or folder, or a hub id."""
    if not local.exists():
        return path
    found = None if category is None else _list_of(local, category)
    return str(found or local)


def _list_of(folder: Path, category: str) -> Path | None:
    files = (folder / top / f"{category}.json" for top in ("json", "."))
    return next((file for file in files if file.is_file()), None)


def find_path(path: str, base_dir: Path) -> Path:
    """A path of a recipe: below the recipe's folder, or where nothing is there, below the working directory."""
    given = Path(path).expanduser()
    below = base_dir / given
    return below if below.exists() else given


def _folder(path: str, base_dir: Path) -> Path:
    found = find_path(path, base_dir)
    if not found.is_dir():
        raise OLMoInputError(f"image_root {path!r} is not a folder (looked in {base_dir} and {Path.cwd()})")
    return found.absolute()


def _lines(path: Path) -> frozenset[str]:
    try:
        return frozenset(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise OLMoInputError(f"cannot read the list of pictures to exclude: {error}") from None

"""A folder of pictures or clips, each with a text beside it: `cat.jpg` with `cat.txt` (a caption) or `cat.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olmo.data.pictures import PICTURE_SUFFIXES
from olmo.data.row_source import RowSource
from olmo.data.shown import shows_something
from olmo.data.videos import VIDEO_SUFFIXES
from olmo.data.written_rows import read_row, written_example
from olmo.exceptions import OLMoInputError

CAPTION_STYLE = "long_caption"


class FolderSource(RowSource):
    """Pictures and videos of a folder and its subfolders, in the order of their paths.

    Those without a text beside them are left out; `n_without_text` counts them.

    Args:
        path: the folder.
        name: what metrics call it; by default the folder's name.
        style: style of captions (by default `long_caption`) and of .json rows that name none.

    Raises:
        OLMoInputError: no such folder, nothing to show in it, no texts, or two texts beside one file.
    """

    def __init__(self, path: str | Path, name: str | None = None, style: str | None = None) -> None:
        self.path = Path(path).absolute()
        self.name, self.style = name or self.path.name, style
        if not self.path.is_dir():
            what = "is a file" if self.path.exists() else "does not exist"
            raise OLMoInputError(f"folder {self.path} {what}; check the path")
        suffixes = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
        pictures = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        if not pictures:
            raise OLMoInputError(f"folder {self.path} holds no pictures or videos; looked for {', '.join(suffixes)}")
        pairs = [(picture, _text_beside(picture)) for picture in pictures]
        self._pairs = [(picture, text) for picture, text in pairs if text is not None]
        self.n_without_text = len(pairs) - len(self._pairs)
        if not self._pairs:
            raise OLMoInputError(
                f"none of the {len(pairs)} pictures and videos in {self.path} has a text beside it; put a caption into "
                f'{pictures[0].with_suffix(".txt").name}, or a row such as {{"question": ..., "answer": ...}} into '
                f"{pictures[0].with_suffix('.json').name}"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def place(self, row: int) -> str:
        """The file with the row's text."""
        return str(self._pairs[row][1])

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        picture, text = self._pairs[row]
        content = text.read_bytes()
        if text.suffix.lower() == ".txt":
            try:
                caption = content.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise OLMoInputError("the caption is not UTF-8; save it as UTF-8") from None
            if not caption:
                raise OLMoInputError("the caption is empty; write one, or delete the file to leave the picture out")
            return {_key_of(picture): str(picture), "text": caption, "style": self.style or CAPTION_STYLE}
        example = written_example(read_row(content), text.parent, None, self.style)
        if not shows_something(example):
            example[_key_of(picture)] = str(picture)
        return example


def _key_of(file: Path) -> str:
    return "video" if file.suffix.lower() in VIDEO_SUFFIXES else "image"


def _text_beside(picture: Path) -> Path | None:
    found = [file for suffix in (".txt", ".json") if (file := picture.with_suffix(suffix)).is_file()]
    if len(found) > 1:
        raise OLMoInputError(f"{picture} has both a .txt and a .json beside it; keep one")
    return found[0] if found else None
